"""Measuring in a batch: the scores of one picture, beside its ground truth and LQ, with its record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .job import Task
from .record import Result, may_fail

if TYPE_CHECKING:
    from ..evaluate.metric import Measure, Metric
    from ..ports import Progress


@dataclass
class MeasureResult(Result):
    """scores: by metric; bicubic: those of the LQ enlarged, if there is one. input_size: of the result."""

    scores: dict[str, float | None] | None = None
    bicubic: dict[str, float | None] | None = None


@dataclass(frozen=True)
class MeasureSettings:
    """metrics: their names, of single pictures. truth: there is a ground truth."""

    metrics: tuple[str, ...]
    truth: bool
    device: str = "auto"
    allow_download: bool = False

    def open(self) -> Measuring:
        """Nothing is loaded yet."""
        return Measuring(self)


class Measuring:
    """The metrics for all pictures. What lies beside one is (ground truth, LQ)."""

    kind = MeasureResult
    done = "measured"
    writes = False

    def __init__(self, settings: MeasureSettings) -> None:
        self.settings = settings

    @cached_property
    def measures(self) -> dict[Metric, Measure]:
        """Those that can be computed here."""
        from ..evaluate.measure import load_measures
        from ..evaluate.metrics import METRICS
        from ..runtime.device import parse_device

        one = self.settings
        metrics = [METRICS[name] for name in one.metrics]
        return load_measures(metrics, parse_device(one.device), one.allow_download, one.truth, 1)[0]

    def load(self) -> None:
        """Raises MetricUnavailable where none can be computed."""
        _ = self.measures

    def work(
        self,
        task: Task,
        result: MeasureResult,
        step: Progress | None = None,
        *,
        dry_run: bool = False,
        debug: bool = False,
    ) -> None:
        """Measures one picture, or says in `result` why not."""
        from ..evaluate.evaluation import measure
        from ..evaluate.folders import PicturePair

        start = time.perf_counter()
        self.load()
        with may_fail(result, self.done, debug):
            truth, lq = (None if one is None else Path(str(one)) for one in task.beside)
            case, _ = measure(PicturePair(Path(task.name).stem, Path(task.name), truth, lq), self.measures)
            result.scores, result.bicubic, result.notes = case.result, case.bicubic, case.notes
            result.input_size, result.status = list(case.size), self.done
            result.seconds = round(time.perf_counter() - start, 3)
