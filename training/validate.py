"""Validation on fixed pairs: the same crops at every call, their figures, and a sheet to look at."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from osediff_core.atomic import write_bytes_atomically
from osediff_core.errors import explained
from osediff_core.evaluate.measure import load_measures
from osediff_core.evaluate.metric import ImageMeasure
from osediff_core.evaluate.metrics import parse_metrics
from osediff_core.evaluate.psnr_ssim import psnr_y, ssim_y
from osediff_core.images import Cell, centre_crop, contact_sheet

from .config import TrainConfig, ValidationConfig
from .data.captions import find_tagger
from .data.errors import DataError
from .data.fixed_pairs import SEED, ValidationPair, as_uint8, list_pairs, read_pairs
from .data.pictures import to_tensor
from .networks import Networks
from .perceptual import perceptual_loss
from .run.errors import TrainingError
from .run.start import Run
from .run.updater import Updater
from .steps import restore

Restore = Callable[[Tensor, list[str]], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
# the number of a pair, its figures, those of its enlarged LQ, and the restored picture if it is to be shown
Seen = tuple[int, dict[str, float], dict[str, float], np.ndarray | None]

_SHOWN = 8  # pairs on a sheet


class Validation:
    """Restores `pairs` and compares the results with what they should be.

    distance: two (B, 3, H, W) in [-1, 1] -> (B,), smaller is closer; None leaves it out. prompt: of every picture, or
    what says it of the LQ (1, 3, H, W) in [-1, 1]. measures: further figures by name.
    skipped: files that were left out, each with the reason.
    """

    def __init__(
        self,
        pairs: Sequence[ValidationPair],
        distance: Distance | None = None,
        prompt: str | Callable[[Tensor], list[str]] = "",
        skipped: Sequence[str] = (),
        measures: Mapping[str, ImageMeasure] = MappingProxyType({}),
    ) -> None:
        if not pairs:
            raise DataError("There is no pair to validate on; give a folder with pictures.")
        self.pairs, self.skipped = list(pairs), list(skipped)
        self.distance, self.measures = distance, dict(measures)
        tag = prompt if callable(prompt) else lambda _: [prompt]
        self.prompts = [tag(to_tensor(pair.lq[None]))[0] for pair in self.pairs]
        self._bicubic: dict[int, dict[str, float]] = {}
        self._rows: list[list[Cell]] = []

    @classmethod
    def from_folder(
        cls,
        path: Path,
        limit: int = 16,
        size: int = 512,
        multiple: int = 8,
        distance: Distance | None = None,
        *,
        preset: str = "realesrgan",
        scale: float = 4.0,
        seed: int = SEED,
        prompt: str | Callable[[Tensor], list[str]] = "",
        measures: Mapping[str, ImageMeasure] = MappingProxyType({}),
    ) -> Validation:
        """On the pairs that `read_pairs` reads; raises as it does."""
        pairs, skipped = read_pairs(path, limit, size, multiple, preset=preset, scale=scale, seed=seed)
        return cls(pairs, distance, prompt, skipped, measures)

    def run(
        self,
        restore: Restore,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[list[Seen]], list[Seen]] = list,
    ) -> dict[str, float]:
        """Restore every pair on its own and return the means of the figures.

        restore: (lq (1, 3, H, W) in [-1, 1] on the CPU, [prompt]) -> the same shape on any device. Keys: psnr_y in dB,
        ssim_y, distance and those of `measures`; bicubic_* are those of the enlarged LQ, distance_ratio is distance /
        bicubic_distance. PSNR, SSIM and measures are those of `osediff evaluate`.
        rank, world: with several processes each restores every world-th pair, and `gather` gives all of them what all
        have seen. All call `restore` equally often.
        """
        seen: list[Seen] = []
        for first in range(0, len(self.pairs), world):
            number = min(
                first + rank, len(self.pairs) - 1
            )  # the last ones again, where there are fewer than ranks
            pair = self.pairs[number]
            with torch.no_grad():
                restored = restore(to_tensor(pair.lq[None]), [self.prompts[number]])
                restored = restored.detach().float().cpu().clamp(-1, 1)
            if first + rank < len(self.pairs):
                if number not in self._bicubic:
                    self._bicubic[number] = self._figures(to_tensor(pair.lq[None]), pair)
                shown = as_uint8(restored) if number < _SHOWN else None
                seen.append((number, self._figures(restored, pair), self._bicubic[number], shown))
        seen = sorted(gather(seen), key=lambda found: found[0])
        self._rows = [self._row(*found) for found in seen[:_SHOWN]]
        means, bicubic = _means([found[1] for found in seen]), _means([found[2] for found in seen])
        values = means | {f"bicubic_{name}": value for name, value in bicubic.items()}
        if bicubic.get("distance", 0) > 0:
            values["distance_ratio"] = means["distance"] / bicubic["distance"]
        return values

    def _row(
        self, number: int, found: dict[str, float], bicubic: dict[str, float], restored: np.ndarray | None
    ) -> list[Cell]:
        pair = self.pairs[number]
        assert restored is not None
        captions = (_phrase(bicubic), _phrase(found), pair.name)
        cells = zip(map(Image.fromarray, (pair.lq, restored, pair.hq)), captions, strict=True)
        return [Cell(picture, caption) for picture, caption in cells]

    def sheet(self, path: Path, side: int = 320, rows: int = _SHOWN) -> None:
        """Write LQ | restored | HQ of the last run as a PNG, whole or not at all; its folder is made.

        Shows the centres of the first `rows` pairs at 1:1, at most `side` px wide and high.
        Raises TrainingError where the file cannot be written.
        """
        cells = [[Cell(centre_crop(cell.picture, side), cell.caption) for cell in row] for row in self._rows]
        page = contact_sheet(cells[:rows], ("LQ", "restored", "HQ"), lines=1)
        buffer = io.BytesIO()
        page.save(buffer, "PNG")
        with explained(
            TrainingError, f"The validation sheet {path} cannot be written", "free space or mend the folder"
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(path, buffer.getvalue())

    @torch.no_grad()
    def _figures(self, image: Tensor, pair: ValidationPair) -> dict[str, float]:
        """Of one image (1, 3, H, W) in [-1, 1] on the CPU."""
        hq = to_tensor(pair.hq[None])
        found = {"psnr_y": float(psnr_y(image, hq)), "ssim_y": float(ssim_y(image, hq))}
        if self.distance is not None:
            device = _device_of(self.distance)
            found["distance"] = float(self.distance(image.to(device), hq.to(device)))
        return found | {name: measure(image, hq) for name, measure in self.measures.items()}


@dataclass(frozen=True)
class Examiners:
    """What validation asks beside the networks in training. prompt, distance, measures: as `Validation` has them."""

    prompt: str | Callable[[Tensor], list[str]]
    distance: Distance
    measures: Mapping[str, ImageMeasure]


def load_examiners(chosen: ValidationConfig, device: torch.device) -> Examiners | None:
    """As the settings say; None where they name no folder to validate on.

    Raises OSEDiffError for weights or packages that are missing, and for a folder without pictures.
    """
    if chosen.path is None:
        return None
    list_pairs(Path(chosen.path))
    kind, _, tagger = chosen.prompt.partition(":")
    metrics = parse_metrics(chosen.metrics) if chosen.metrics else []
    # one picture at a time: those of whole sets are for `osediff evaluate`
    metrics = [metric for metric in metrics if not metric.of_set]
    measures = load_measures(metrics, device, False, True, chosen.limit)[0] if metrics else {}
    return Examiners(
        find_tagger(tagger, device) if kind == "tagger" else chosen.prompt,
        perceptual_loss(chosen.distance).to(device),
        {metric.name: cast("ImageMeasure", measure) for metric, measure in measures.items()},
    )


class RestoredPairs:
    """Validation of a run: its fixed pairs, restored with the averaged weights.

    prompts: words -> embeddings (B, L, D). examiners: None for no validation. Raises DataError without pairs.
    """

    def __init__(
        self,
        run: Run[TrainConfig],
        networks: Networks,
        generator: Updater,
        prompts: Callable[[list[str]], Tensor],
        examiners: Examiners | None,
    ) -> None:
        self._run, self._networks, self._generator, self._prompts = run, networks, generator, prompts
        chosen, self._validation = run.config.validation, None
        if examiners is not None and chosen.path is not None:
            pairs, skipped = read_pairs(
                Path(chosen.path),
                chosen.limit,
                chosen.size,
                networks.base.vae.downscale,
                preset=chosen.preset,
            )
            self._validation = Validation(
                pairs, examiners.distance, examiners.prompt, skipped, examiners.measures
            )

    def run(self, step: int) -> dict[str, float] | None:
        """The figures, and the sheet of the step; None without pairs."""
        run, validation = self._run, self._validation
        if validation is None:
            return None

        def restored(lq: Tensor, prompts: list[str]) -> Tensor:
            embeds = self._prompts(prompts).to(run.device)
            return restore(self._networks, lq.to(run.device), embeds, run.config.precision)

        with self._generator.averaged():
            found = validation.run(restored, run.rank, run.world, run.of_all)
        if run.main:
            validation.sheet(run.folder.sheet(step))
        return found


def _device_of(distance: Distance) -> torch.device:
    first = next(distance.parameters(), None) if isinstance(distance, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([found[name] for found in figures])) for name in figures[0]}


def _phrase(figures: dict[str, float]) -> str:
    phrase = f"{figures['psnr_y']:.2f} dB   SSIM {figures['ssim_y']:.3f}"
    return phrase + (f"   distance {figures['distance']:.4f}" if "distance" in figures else "")
