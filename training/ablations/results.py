"""The figures of all runs in a folder, and differences of two rows over the same pictures and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .figures import FIGURES, MEASURED, read_figures
from .plan import REFERENCE, TRAININGS, Row

_DRAWS = 4000


@dataclass(frozen=True)
class Figures:
    """values (seeds, pictures), fp64; names of pictures are SET/NAME."""

    seeds: tuple[int, ...]
    pictures: tuple[str, ...]
    values: Tensor

    @property
    def mean(self) -> float:
        """Over all."""
        return float(self.values.mean())

    @property
    def spread(self) -> float | None:
        """The standard deviation of the seeds' means; None for a single seed."""
        return float(self.values.mean(dim=1).std()) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % bootstrap interval, and the mean of each seed."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    pictures: int

    def times(self, factor: float) -> Difference:
        """In another unit, or turned round."""
        low, high = sorted((factor * self.low, factor * self.high))
        return Difference(
            factor * self.mean, low, high, tuple(factor * value for value in self.by_seed), self.pictures
        )


def difference_of(values: Tensor, seed: int = 0) -> Difference:
    """Of paired differences (seeds, pictures): seeds and pictures are both drawn anew, with replacement, each draw."""
    values = values.double()
    seeds, pictures = values.shape
    generator = torch.Generator().manual_seed(seed)
    of_seeds, of_pictures = (
        torch.nn.functional.one_hot(torch.randint(count, (_DRAWS, count), generator=generator), count)
        .double()
        .mean(dim=1)
        for count in (seeds, pictures)
    )
    means = ((of_seeds @ values) * of_pictures).sum(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype))
    return Difference(
        float(values.mean()), float(low), float(high), tuple(values.mean(dim=1).tolist()), pictures
    )


class Results:
    """What was measured: by (training, seed) what a figures.json holds."""

    def __init__(self, found: dict[tuple[str, int], dict[str, Any]]) -> None:
        self.found = found

    @classmethod
    def read(cls, out: Path) -> Results:
        """Of the runs in `out` that are measured, on the pictures and after the steps of the newest reference."""
        found, written = {}, {}
        for training in TRAININGS:
            for folder in sorted((out / training).glob("seed_*")):
                number, figures = folder.name.removeprefix("seed_"), read_figures(folder)
                if figures is not None and number.lstrip("-").isdigit():
                    found[training, int(number)] = figures
                    written[training, int(number)] = (folder / FIGURES).stat().st_mtime_ns
        newest = max(written, key=lambda run: (run[0] == REFERENCE, written[run]), default=None)
        return cls({run: figures for run, figures in found.items() if _alike(figures, found[newest])})

    @property
    def seeds(self) -> list[int]:
        """Of any training."""
        return sorted({seed for _, seed in self.found})

    @property
    def sets(self) -> dict[str, int]:
        """Name -> number of pictures."""
        sizes: dict[str, int] = {}
        for figures in self.found.values():
            for name, pictures in figures["input"].items():
                sizes[name] = max(sizes.get(name, 0), len(pictures))
        return sizes

    @property
    def metrics(self) -> list[str]:
        """Those that some picture has."""
        there = {
            name
            for figures in self.found.values()
            for pictures in figures["input"].values()
            for values in pictures.values()
            for name in values
        }
        return [name for name in MEASURED if name in there]

    @property
    def skipped(self) -> dict[str, str]:
        """Metric -> why no picture has it."""
        reasons = {name: why for figures in self.found.values() for name, why in figures["skipped"].items()}
        return {name: why for name, why in reasons.items() if name not in self.metrics}

    def of(self, row: Row | None, metric: str, chosen: str | None = None) -> Figures | None:
        """A row's figures on the set `chosen`, or on all; of the enlarged input where row is None.

        Pictures that lack one in any run are left out. None where nothing is left.
        """
        by_seed: dict[int, dict[str, float]] = {}
        for (training, seed), figures in self.found.items():
            if row is None:
                sets = figures["input"]
            elif training == row.training:
                sets = figures["restored"].get(row.prompting, {})
            else:
                continue
            values = {
                f"{name}/{picture}": measured[metric]
                for name, pictures in sets.items()
                if chosen in (None, name)
                for picture, measured in pictures.items()
                if measured.get(metric) is not None
            }
            if values:
                by_seed[seed] = values
        pictures = sorted(set.intersection(*map(set, by_seed.values()))) if by_seed else []
        if not pictures:
            return None
        seeds = tuple(sorted(by_seed))
        values = [[by_seed[seed][picture] for picture in pictures] for seed in seeds]
        return Figures(seeds, tuple(pictures), torch.tensor(values, dtype=torch.float64))

    def same_prompts(self, row: Row, other: Row) -> tuple[int, int]:
        """In how many of how many pictures, over all seeds, two rows of one training restored with equal prompts."""
        same = total = 0
        for (training, _), figures in self.found.items():
            if training != row.training:
                continue
            one, two = (figures["prompts"].get(which.prompting, {}) for which in (row, other))
            for name in one.keys() & two.keys():
                pictures = one[name].keys() & two[name].keys()
                total += len(pictures)
                same += sum(one[name][picture] == two[name][picture] for picture in pictures)
        return same, total

    def difference(self, row: Row, other: Row, metric: str, chosen: str | None = None) -> Difference | None:
        """row - other, over the seeds and pictures that both have; None where there are none."""
        one, two = self.of(row, metric, chosen), self.of(other, metric, chosen)
        if one is None or two is None:
            return None
        seeds = [seed for seed in one.seeds if seed in two.seeds]
        pictures = [picture for picture in one.pictures if picture in two.pictures]
        if not seeds or not pictures:
            return None
        return difference_of(_taken(one, seeds, pictures) - _taken(two, seeds, pictures))


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the figures may be subtracted."""
    return one["training"]["steps"] == other["training"]["steps"] and all(
        one["evaluation"][key] == other["evaluation"][key] for key in ("sets", "size", "limit")
    )


def _taken(figures: Figures, seeds: list[int], pictures: list[str]) -> Tensor:
    rows = torch.tensor([figures.seeds.index(seed) for seed in seeds])
    columns = torch.tensor([figures.pictures.index(picture) for picture in pictures])
    return figures.values[rows][:, columns]
