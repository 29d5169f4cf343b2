"""Evaluation: every picture through every metric, with means, intervals and the worst cases."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import ImageError, OSEDiffError, amount
from ..images import Picture, read_image
from ..interrupts import pass_on
from .bootstrap import Mean, mean_of
from .fid import TRUTH, WholeSet
from .folders import PicturePair, of_one_shape
from .measure import BICUBIC, DIFFERENCE, RESULT, Loaded, Scores, load_measures, scores_of
from .metric import Measure, Metric, MetricUnavailable
from .metrics import METRICS, ORDER

logger = logging.getLogger(__name__)


@dataclass
class Case:
    """One picture's scores by metric; None where a metric could not give one, which `notes` explain.

    size: (width, height). pair: its files, if it came from some. bicubic: the scores of the LQ picture enlarged by
    Pillow's bicubic.
    """

    name: str
    size: tuple[int, int]
    pair: PicturePair | None = None
    result: Scores = field(default_factory=dict)
    bicubic: Scores | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Evaluation:
    """The scores of all pictures and their means.

    skipped: metric -> why it was left out. failed: name -> why the pair was left out. summary: "result", "bicubic" and
    "difference" (result - bicubic, over the pictures that have both) -> metric -> mean. interrupted: by Ctrl-C, so that
    the last pictures or FID are missing. kinds: name -> the class of the error, of those that failed.
    """

    metrics: list[Metric]
    skipped: dict[str, str]
    cases: list[Case]
    failed: dict[str, str]
    summary: dict[str, dict[str, Mean]]
    seed: int = 0
    interrupted: bool = False
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def order_by(self) -> Metric | None:
        """The metric that says which results are worst; None if no picture has a score."""
        there = {metric.name for metric in self.metrics if metric.name in self.summary[RESULT]}
        return next((METRICS[name] for name in ORDER if name in there), None)

    def worst_first(self, by: Metric | None = None) -> list[Case]:
        """The cases from worst to best; those without a score are last."""
        metric = by or self.order_by
        if metric is None:
            return list(self.cases)

        def badness(case: Case) -> float:
            value = case.result.get(metric.name)
            return math.inf if value is None else value if metric.higher else -value

        return sorted(self.cases, key=badness)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "metrics": [
                {k: v for k, v in asdict(m).items() if k in ("name", "title", "library", "settings", "unit")}
                | {"better": "higher" if m.higher else "lower"}
                for m in self.metrics
            ],
            "skipped": dict(self.skipped),
            "seed": self.seed,
            "interrupted": self.interrupted,
            "summary": {
                method: {name: asdict(mean) for name, mean in means.items()}
                for method, means in self.summary.items()
            },
            "pictures": [
                {
                    "name": case.name,
                    "size": list(case.size),
                    "result": case.result,
                    "bicubic": case.bicubic,
                    "notes": case.notes,
                }
                for case in self.cases
            ],
            "failed": [
                {"name": name, "error": error, "kind": self.kinds.get(name, ImageError.__name__)}
                for name, error in self.failed.items()
            ],
        }


Fail = Callable[[str, str, str], None]  # name, the sentence that says why, the class of the error
Elsewhere = Callable[
    [Sequence[str], Callable[[Case], None], Fail], None
]  # names of metrics, what takes a case


def evaluate(
    pairs: Sequence[PicturePair],
    metrics: Sequence[Metric],
    device: torch.device | str = "cpu",
    *,
    allow_download: bool = False,
    seed: int = 0,
    progress: Callable[[Sequence[PicturePair]], Iterator[PicturePair]] = iter,
    loaded: Loaded | None = None,
    elsewhere: Elsewhere | None = None,
) -> Evaluation:
    """Measures every pair; one that cannot be read or does not fit costs the others nothing.

    Pictures are compared as 8-bit RGB, without alpha. seed: of the bootstrap intervals. progress: wraps the pairs, as
    tqdm does. loaded: what `load_measures` gave, to be used again. elsewhere: measures them instead, in other
    processes. Ctrl-C ends it with what is measured by then. Raises MetricUnavailable if no metric is left, ImageError
    if no pair is left.
    """
    device = torch.device(device)
    with_truth = any(pair.truth is not None for pair in pairs)
    measures, skipped = loaded or load_measures(metrics, device, allow_download, with_truth, len(pairs))
    skipped = dict(skipped)
    of_each = {m: f for m, f in measures.items() if not m.of_set}
    of_set = {m: f for m, f in measures.items() if m.of_set}
    cases: list[Case] = []
    failed: dict[str, str] = {}
    kinds: dict[str, str] = {}
    interrupted, together = False, {}

    def fail(name: str, error: str, kind: str) -> None:
        failed[name], kinds[name] = error, kind

    with WholeSet(of_set, skipped) as whole:
        try:
            if elsewhere is not None:
                elsewhere([metric.name for metric in of_each], cases.append, fail)
                whole.give_up("takes all pictures in one process; give one --device and no --engine")
            for pair in progress(pairs) if elsewhere is None else ():
                try:
                    case, pictures = measure(pair, of_each)
                    whole.keep(case.name, pictures)
                    cases.append(case)
                except OSEDiffError as error:
                    pass_on(error)
                    logger.error("%s", error)
                    fail(pair.name, str(error), type(error).__name__)
            together = whole.means()
        except KeyboardInterrupt:
            if not cases:
                raise
            interrupted = True
            whole.give_up("takes all pictures, and was interrupted")
    place = {pair.name: index for index, pair in enumerate(pairs)}
    cases.sort(key=lambda case: place[case.name])
    if not cases:
        raise ImageError(
            f"None of the {amount(len(pairs), 'picture')} could be measured; see the messages above."
        )
    summary = summarise(list(of_each), cases, seed)
    for method, means in together.items():
        summary[method] |= means
    left = [metric for metric in measures if metric.name not in skipped]
    if not left:
        raise MetricUnavailable(f"No metric could be computed: {' '.join(skipped.values())}")
    return Evaluation(left, skipped, cases, failed, summary, seed, interrupted, kinds)


def measure(pair: PicturePair, measures: dict[Metric, Measure]) -> tuple[Case, dict[str, np.ndarray | None]]:
    """Reads a pair and measures it; also the pictures, as `WholeSet` keeps them. Raises ImageError."""
    picture = read_image(pair.result)
    case = Case(pair.name, picture.size, pair, notes=_notes(pair.result, picture))
    result, truth = picture.rgb8(), None
    if pair.truth is not None:
        reference = read_image(pair.truth)
        if reference.size != picture.size:
            raise ImageError(
                f"{pair.result} has {_by(picture.size)} pixels, but its ground truth {pair.truth} has "
                f"{_by(reference.size)}; make them the same size."
            )
        case.notes += _notes(pair.truth, reference)
        truth = reference.rgb8()
    case.result = scores_of(measures, result, truth, case.notes)
    bicubic = None if pair.lq is None else _bicubic(pair.lq, case)
    if bicubic is not None:
        case.bicubic = scores_of(measures, bicubic, truth, [])
    return case, {RESULT: result, TRUTH: truth, BICUBIC: bicubic}


def _notes(path: Path, picture: Picture) -> list[str]:
    notes = [f"{path}: {note}" for note in picture.notes]
    if picture.bits == 16:
        notes.append(f"{path}: its 16 bits per channel are rounded to 8, as the published figures are of 8")
    if picture.alpha is not None:
        notes.append(f"{path}: its transparency is left out, only colours are compared")
    if picture.single_channel:
        notes.append(f"{path}: it is grey and compared as three equal channels")
    for note in notes:
        logger.warning("%s", note)
    return notes


def _bicubic(path: Path, case: Case) -> np.ndarray | None:
    """The LQ picture at the result's size; None, with a note, if it has another shape or cannot be read."""
    try:
        picture = read_image(path)
    except ImageError as error:
        case.notes.append(f"{error} It is not compared with bicubic")
        return None
    if not of_one_shape(case.size, picture.size):
        case.notes.append(
            f"{path} has {_by(picture.size)} pixels, another shape than the result's {_by(case.size)}, and is not "
            "compared with bicubic"
        )
        return None
    return enlarged(picture, case.size)


def enlarged(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bicubic on 8 bits: uint8 (height, width, 3) at `size` = (width, height)."""
    return np.asarray(Image.fromarray(picture.rgb8()).resize(size, Image.Resampling.BICUBIC))


def summarise(metrics: Sequence[Metric], cases: list[Case], seed: int = 0) -> dict[str, dict[str, Mean]]:
    """The means of every method, as `Evaluation.summary` has them."""
    summary: dict[str, dict[str, Mean]] = {RESULT: {}, BICUBIC: {}, DIFFERENCE: {}}
    for metric in metrics:
        name = metric.name
        results = [case.result.get(name) for case in cases]
        bicubics = [(case.bicubic or {}).get(name) for case in cases]
        differences = [
            None if a is None or b is None else a - b for a, b in zip(results, bicubics, strict=True)
        ]
        for method, values in ((RESULT, results), (BICUBIC, bicubics), (DIFFERENCE, differences)):
            mean = mean_of(values, seed)
            if mean is not None:
                summary[method][name] = mean
    return summary


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
