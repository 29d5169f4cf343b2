"""The figures of all runs in a folder, and differences of two rows over the same images and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .features import INPUT, TRUTH, read_features
from .figures import FIGURES, KID, METRICS, read_figures
from .kid import by_picture, pair_values, weighted
from .plan import REFERENCE, TRAININGS, Row

_DRAWS = 2000
_KID_SCALE = 1000
IDENTITY = Row("enlarged input", INPUT)  # the low-quality image as a result


@dataclass(frozen=True)
class Figures:
    """values (seeds, images), fp64; names of images are SET/NAME."""

    seeds: tuple[int, ...]
    pictures: tuple[str, ...]
    values: Tensor

    def means(self, weights: Tensor) -> Tensor:
        """The metric with image i taken weights[..., i] times: (..., images) -> (seeds, ...)."""
        return torch.einsum("sp,...p->s...", self.values, weights) / weights.sum(dim=-1)

    def taken(self, seeds: list[int], pictures: list[str]) -> Figures:
        """Those alone."""
        rows = torch.tensor([self.seeds.index(seed) for seed in seeds])
        columns = torch.tensor([self.pictures.index(picture) for picture in pictures])
        return Figures(tuple(seeds), tuple(pictures), self.values[rows][:, columns])


@dataclass(frozen=True)
class SetFigures:
    """A distance of two sets by pairs of images: sums (seeds, images, images), pairs (images, images), see kid.py."""

    seeds: tuple[int, ...]
    pictures: tuple[str, ...]
    sums: Tensor
    pairs: Tensor

    def means(self, weights: Tensor) -> Tensor:
        """As Figures."""
        return torch.stack([weighted(sums, self.pairs, weights) for sums in self.sums]) * _KID_SCALE

    def taken(self, seeds: list[int], pictures: list[str]) -> SetFigures:
        """Those alone."""
        rows = torch.tensor([self.seeds.index(seed) for seed in seeds])
        at = torch.tensor([self.pictures.index(picture) for picture in pictures])
        return SetFigures(
            tuple(seeds), tuple(pictures), self.sums[rows][:, at][:, :, at], self.pairs[at][:, at]
        )


AnyFigures = Figures | SetFigures


def by_seed(figures: AnyFigures) -> Tensor:
    """The metric of each seed over all images, (seeds,)."""
    return figures.means(torch.ones(len(figures.pictures), dtype=torch.float64))


def spread(figures: AnyFigures) -> float | None:
    """The standard deviation of the seeds' values; None for a single seed."""
    return float(by_seed(figures).std()) if len(figures.seeds) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A difference with its 95 % bootstrap interval, and that of each seed."""

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


def difference_of(one: AnyFigures, other: AnyFigures, seed: int = 0) -> Difference:
    """one - other, of the same seeds and images: both are drawn anew, with replacement, the same for each at a draw."""
    generator = torch.Generator().manual_seed(seed)
    of_seeds, of_pictures = (
        torch.nn.functional.one_hot(torch.randint(count, (_DRAWS, count), generator=generator), count)
        .double()
        .sum(dim=1)
        for count in (len(one.seeds), len(one.pictures))
    )
    drawn = one.means(of_pictures) - other.means(of_pictures)  # (seeds, draws)
    means = (drawn.T * of_seeds).sum(dim=1) / len(one.seeds)
    means = means[means.isfinite()]  # one image drawn every time leaves no pair for KID
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype))
    each = by_seed(one) - by_seed(other)
    return Difference(float(each.mean()), float(low), float(high), tuple(each.tolist()), len(one.pictures))


class Results:
    """What was measured: by (training, seed) what a figures.json holds, and the run's features."""

    def __init__(
        self, found: dict[tuple[str, int], dict[str, Any]], features: dict[tuple[str, int], dict[str, Tensor]]
    ) -> None:
        self.found, self.features = found, features
        self._cached: dict[tuple[Any, ...], AnyFigures | None] = {}

    @classmethod
    def read(cls, out: Path) -> Results:
        """Of the runs in `out` that are measured, on the images and after the steps of the newest reference."""
        found, written = {}, {}
        for training in TRAININGS:
            for folder in sorted((out / training).glob("seed_*")):
                number, figures = folder.name.removeprefix("seed_"), read_figures(folder)
                if figures is not None and number.lstrip("-").isdigit():
                    found[training, int(number)] = figures
                    written[training, int(number)] = (folder / FIGURES).stat().st_mtime_ns
        newest = max(written, key=lambda run: (run[0] == REFERENCE, written[run]), default=None)
        kept = {run: figures for run, figures in found.items() if _alike(figures, found[newest])}
        return cls(kept, {run: read_features(out / run[0] / f"seed_{run[1]}") for run in kept})

    @property
    def seeds(self) -> list[int]:
        """Of any training."""
        return sorted({seed for _, seed in self.found})

    @property
    def sets(self) -> dict[str, int]:
        """Name -> number of images."""
        sizes: dict[str, int] = {}
        for figures in self.found.values():
            for name, pictures in figures["input"].items():
                sizes[name] = max(sizes.get(name, 0), len(pictures))
        return sizes

    @cached_property
    def metrics(self) -> list[str]:
        """Those that some image has."""
        there = {
            name
            for figures in self.found.values()
            for pictures in figures["input"].values()
            for values in pictures.values()
            for name in values
        }
        if any(self.features.values()):
            there.add(KID)
        return [name for name in METRICS if name in there]

    @property
    def skipped(self) -> dict[str, str]:
        """Metric -> why no image has it."""
        reasons = {name: why for figures in self.found.values() for name, why in figures["skipped"].items()}
        return {name: why for name, why in reasons.items() if name not in self.metrics}

    def of(self, row: Row, metric: str, chosen: str | None = None) -> AnyFigures | None:
        """A row's figures on the set `chosen`, or on all. Images that lack one in any run are left out.

        None where nothing is left.
        """
        key = (*row.place, metric, chosen)
        if key not in self._cached:
            make = self._of_sets if METRICS[metric].of_set else self._of_images
            self._cached[key] = make(row, metric, chosen)
        return self._cached[key]

    def _of_images(self, row: Row, metric: str, chosen: str | None) -> Figures | None:
        by_seed: dict[int, dict[str, float]] = {}
        for (training, seed), figures in self.found.items():
            if row is IDENTITY:
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

    def _of_sets(self, row: Row, _metric: str, chosen: str | None) -> SetFigures | None:
        kind = INPUT if row is IDENTITY else row.prompting
        runs = {
            seed: features
            for (training, seed), features in sorted(self.features.items())
            if row is IDENTITY or training == row.training
        }
        runs = {seed: f for seed, f in runs.items() if any(name.startswith(f"{kind}/") for name in f)}
        if not runs:
            return None
        names = sorted(
            set.intersection(
                *(
                    {name.partition("/")[2] for name in f if name.startswith(f"{kind}/")}
                    & {name.partition("/")[2] for name in f if name.startswith(f"{TRUTH}/")}
                    for f in runs.values()
                )
            )
        )
        names = [name for name in names if chosen is None or name.startswith(f"{chosen}/")]
        if len(names) < 2:
            return None
        sums, pairs = [], torch.empty(0)
        for f in runs.values():
            made = torch.cat([f[f"{kind}/{name}"] for name in names])
            truth = torch.cat([f[f"{TRUTH}/{name}"] for name in names])
            number = torch.tensor(
                [place for place, name in enumerate(names) for _ in range(len(f[f"{TRUTH}/{name}"]))]
            )
            summed, pairs = by_picture(pair_values(made, truth), number)
            sums.append(summed)
        return SetFigures(tuple(runs), tuple(names), torch.stack(sums), pairs)

    def same_prompts(self, row: Row, other: Row) -> tuple[int, int]:
        """In how many of how many images, over all seeds, two rows of one training restored with equal prompts."""
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
        """row - other, over the seeds and images that both have; None where there are none."""
        one, two = self.of(row, metric, chosen), self.of(other, metric, chosen)
        if one is None or two is None:
            return None
        seeds = [seed for seed in one.seeds if seed in two.seeds]
        pictures = [picture for picture in one.pictures if picture in two.pictures]
        if not seeds or not pictures:
            return None
        return difference_of(one.taken(seeds, pictures), two.taken(seeds, pictures))


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the figures may be subtracted."""
    return one["training"]["steps"] == other["training"]["steps"] and all(
        one["evaluation"][key] == other["evaluation"][key] for key in ("sets", "size", "limit", "across")
    )
