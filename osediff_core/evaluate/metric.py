"""A metric as the rest sees it: what is known of it, and a function of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import OSEDiffError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# (image, ground truth or None), both (1, 3, H, W) in [-1, 1] with 8-bit levels -> the score
ImageMeasure = Callable[["Tensor", "Tensor | None"], float]
# (folder of results, folder of ground truths) -> the score of all together
SetMeasure = Callable[["Path", "Path"], float]
Measure = ImageMeasure | SetMeasure  # which of the two, `Metric.of_set` says


class MetricUnavailable(OSEDiffError):
    """A metric cannot be computed here; the sentence says why and what would help."""


@dataclass(frozen=True)
class Metric:
    """A metric's name, direction and needs, without what computes it.

    higher: whether more is better. truth: whether it compares with the ground truth. digits: behind the point in
    tables. least: the shortest side in px that it can take. library: what computes it. of_set: one score for all
    pictures together, none for each.
    """

    name: str
    title: str
    higher: bool
    truth: bool
    digits: int
    library: str
    settings: str
    least: int = 1
    unit: str = ""
    of_set: bool = False

    @property
    def arrow(self) -> str:
        """The direction of better."""
        return "\N{UPWARDS ARROW}" if self.higher else "\N{DOWNWARDS ARROW}"

    def shown(self, value: float | None) -> str:
        """The score as tables have it."""
        return "–" if value is None else f"{value:.{self.digits}f}"
