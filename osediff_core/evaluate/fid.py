"""Metrics of all pictures together, FID, which take them as files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
from PIL import Image

from ..errors import amount, first_line
from ..interrupts import pass_on
from .bootstrap import Mean
from .measure import BICUBIC, LEAST_FOR_FID, RESULT
from .metric import Measure, Metric, SetMeasure

logger = logging.getLogger(__name__)

TRUTH = "truth"


class WholeSet:
    """Keeps pictures in a temporary folder while it is entered, and measures them together.

    A metric that cannot be computed is put into `skipped`, with the reason; the others stay.
    """

    def __init__(self, measures: Mapping[Metric, Measure], skipped: dict[str, str]) -> None:
        self._measures = {metric: cast("SetMeasure", measure) for metric, measure in measures.items()}
        self._skipped = skipped
        self._folder: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> WholeSet:
        if self._measures:
            try:
                self._folder = tempfile.TemporaryDirectory(prefix="osediff-")
            except OSError as error:
                self._give_up_for(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._clean()

    def keep(self, name: str, pictures: Mapping[str, np.ndarray | None]) -> None:
        """pictures: RESULT, BICUBIC, TRUTH -> uint8 (H, W, 3), or None where there is none."""
        if self._folder is None:
            return
        try:
            for kind, pixels in pictures.items():
                if pixels is not None:
                    folder = Path(self._folder.name, kind)
                    folder.mkdir(exist_ok=True)
                    Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
        except OSError as error:
            self._give_up_for(error)

    def give_up(self, why: str) -> None:
        """Skips all, for the reason that completes "FID …"."""
        if self._folder is not None:
            self._skip_all(why)

    def means(self) -> dict[str, dict[str, Mean]]:
        """RESULT, and BICUBIC where every result has one -> metric -> its score, without an interval."""
        found: dict[str, dict[str, Mean]] = {RESULT: {}, BICUBIC: {}}
        if self._folder is None:
            return found
        folder = Path(self._folder.name)
        count, compared = (len(list((folder / kind).glob("*"))) for kind in (RESULT, BICUBIC))
        for metric, measure in self._measures.items():
            if count < LEAST_FOR_FID:
                self._skip(metric, f"of {amount(count, 'picture')} says nothing; give more")
                continue
            try:
                found[RESULT][metric.name] = Mean(measure(folder / RESULT, folder / TRUTH), None, None, count)
            except Exception as error:  # of pyiqa or scipy
                pass_on(error)
                self._skip(metric, f"could not be computed ({first_line(error)})")
                continue
            if compared < count:  # of other pictures it would be no comparison
                continue
            try:
                found[BICUBIC][metric.name] = Mean(
                    measure(folder / BICUBIC, folder / TRUTH), None, None, count
                )
            except Exception as error:
                pass_on(error)
                logger.warning("%s of bicubic could not be computed (%s).", metric.title, first_line(error))
        return found

    def _give_up_for(self, error: OSError) -> None:
        why = error.strerror or error
        self._skip_all(
            f"takes all pictures as files, and the temporary folder cannot be written ({why}); free space, or choose "
            "another one by TMPDIR"
        )

    def _skip_all(self, why: str) -> None:
        for metric in self._measures:
            self._skip(metric, why)
        self._clean()

    def _skip(self, metric: Metric, why: str) -> None:
        self._skipped[metric.name] = f"{metric.title} {why}."
        logger.warning("%s", self._skipped[metric.name])

    def _clean(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
