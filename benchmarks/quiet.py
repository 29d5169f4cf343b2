"""Whether the machine has nothing else to do, and whether enough was measured: what makes figures worth printing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

_SECONDS = 2.0
# Student's t of 95 % by degrees of freedom; beyond, the normal distribution's
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
_NORMAL = 1.96


def busy_share() -> float:
    """The share of the processors that others take, over two seconds in which this process does nothing.

    From 0 to 1; on systems that do not tell, 0.
    """
    before = _ticks()
    time.sleep(_SECONDS)
    after = _ticks()
    busy, total = (now - then for now, then in zip(after, before, strict=True))
    return busy / total if total else 0.0


def _ticks() -> tuple[int, int]:
    """(busy, all) ticks of all processors since the start of the system."""
    try:
        numbers = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)  # less idle and waiting for disks


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the geometric mean and its 95 % interval by Student's t; of one ratio it is endless."""
    logs = [math.log(ratio) for ratio in ratios]
    if len(logs) < 2:
        return ratios[0], 0.0, math.inf
    t = _T[len(logs) - 2] if len(logs) - 2 < len(_T) else _NORMAL
    half = t * stdev(logs) / math.sqrt(len(logs))
    centre = mean(logs)
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


def is_narrow(ratios: Sequence[float], width: float = 0.05) -> bool:
    """Whether the interval is at most so wide, as a share of the ratio."""
    centre, low, high = ratio_interval(ratios)
    return (high - low) / centre <= width
