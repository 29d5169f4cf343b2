"""Means with bootstrap intervals, so that a difference can be told from chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 4000
_AT_ONCE = 2**22  # drawn values held in memory


@dataclass(frozen=True)
class Mean:
    """Of `count` pictures. low, high: 95 % bootstrap interval over pictures; None for a single one."""

    value: float
    low: float | None
    high: float | None
    count: int


def bootstrap_interval(values: Tensor, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values` (N,): that of `draws` resamples with replacement."""
    count = len(values)
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _AT_ONCE // count)
    means = torch.cat(
        [
            values[torch.randint(count, (min(step, draws - start), count), generator=generator)].mean(dim=1)
            for start in range(0, draws, step)
        ]
    )
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype))
    return float(low), float(high)


def mean_of(values: Sequence[float | None], seed: int = 0) -> Mean | None:
    """The mean of the values that are there and finite; None where there is none."""
    kept = torch.tensor([v for v in values if v is not None and math.isfinite(v)], dtype=torch.float64)
    if not len(kept):
        return None
    interval = bootstrap_interval(kept, seed) if len(kept) > 1 else (None, None)
    return Mean(float(kept.mean()), *interval, len(kept))
