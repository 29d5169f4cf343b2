"""Validation on fixed pairs: the same crops at every call, their figures, and a sheet to look at."""

from __future__ import annotations

import io
import logging
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
from osediff_core.degrade import degrade
from osediff_core.errors import ImageError, OptionError, explained, first_line
from osediff_core.evaluate.folders import of_one_shape, pair_folders, pair_up
from osediff_core.evaluate.measure import load_measures
from osediff_core.evaluate.metric import ImageMeasure
from osediff_core.evaluate.metrics import parse_metrics
from osediff_core.evaluate.psnr_ssim import psnr_y, ssim_y
from osediff_core.images import Cell, centre_crop, contact_sheet, find_pictures, left_out_words

from .config import TrainConfig
from .data.captions import find_tagger
from .data.errors import DataError
from .data.pictures import decode, to_tensor
from .networks import Networks
from .perceptual import perceptual_loss
from .run.errors import TrainingError
from .run.start import Run
from .run.updater import Updater
from .steps import restore

log = logging.getLogger(__name__)

Restore = Callable[[Tensor, list[str]], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
# the number of a pair, its figures, those of its enlarged LQ, and the restored picture if it is to be shown
Seen = tuple[int, dict[str, float], dict[str, float], np.ndarray | None]

SEED = 2024
_SHOWN = 8  # pairs on a sheet
_SMALLEST = 64  # px: below this neither SSIM's window nor a network's features say much


@dataclass(frozen=True)
class ValidationPair:
    """lq, hq: uint8 (H, W, 3) of the same size; the LQ is enlarged already."""

    name: str
    lq: np.ndarray
    hq: np.ndarray


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
        """Pairs of `path`/LR and `path`/HR (or lq, hq and so on), whose names match; else its pictures, degraded here.

        limit: only the first pictures, in order of their names. size: of the centre crops in px, rounded down to
        `multiple`, that of the VAE; smaller pictures keep what they have of it. preset, scale, seed: of
        `osediff_core.degrade`; picture i is degraded by (seed, i). Files that are broken or smaller than 64 px are
        skipped with a warning. Raises DataError where no pair is left, or a pair's sizes do not fit each other.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"There is no folder {path} to validate on; give one, or none for no validation.")
        if size // multiple < 1 or limit < 1:
            raise OptionError(
                f"Validation on {limit} crops of {size} px is not possible; take at least one of {multiple} px."
            )
        skipped: list[str] = []
        pairs = []
        for index, (lq_path, hq_path) in enumerate(_paths(path)[:limit]):
            try:
                hq = _read(hq_path)
                crop = _centre(hq_path, hq.size, size, multiple)
                if lq_path is None:
                    hq = hq.crop(crop)
                    lq = _degraded(hq, preset, scale, seed, index)
                else:
                    lq = _enlarged(_read(lq_path), hq, lq_path).crop(crop)
                    hq = hq.crop(crop)
            except _Unusable as error:
                log.warning("validation: %s; it is skipped", error)
                skipped.append(str(error))
                continue
            pairs.append(ValidationPair(hq_path.stem, np.asarray(lq), np.asarray(hq)))
        if not pairs:
            raise DataError(f"No picture in {path} can be validated on ({skipped[0]}); give other ones.")
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
                shown = _as_uint8(restored) if number < _SHOWN else None
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


class RestoredPairs:
    """Validation of a run: its fixed pairs, restored with the averaged weights."""

    def __init__(
        self,
        run: Run[TrainConfig],
        networks: Networks,
        generator: Updater,
        prompts: Callable[[list[str]], Tensor],
        validation: Validation | None,
    ) -> None:
        self._run, self._networks, self._generator = run, networks, generator
        self._prompts, self._validation = prompts, validation

    @classmethod
    def of_run(
        cls,
        run: Run[TrainConfig],
        networks: Networks,
        generator: Updater,
        prompts: Callable[[list[str]], Tensor],
    ) -> RestoredPairs:
        """As the settings say; prompts: words -> embeddings (B, L, D). Raises OSEDiffError."""
        chosen, validation = run.config.validation, None
        if chosen.path is not None:
            kind, _, tagger = chosen.prompt.partition(":")
            metrics = parse_metrics(chosen.metrics) if chosen.metrics else []
            # one picture at a time: those of whole sets are for `osediff evaluate`
            metrics = [metric for metric in metrics if not metric.of_set]
            measures = load_measures(metrics, run.device, False, True, chosen.limit)[0] if metrics else {}
            validation = Validation.from_folder(
                Path(chosen.path),
                limit=chosen.limit,
                size=chosen.size,
                multiple=networks.base.vae.downscale,
                distance=perceptual_loss(chosen.distance).to(run.device),
                preset=chosen.preset,
                prompt=find_tagger(tagger, run.device) if kind == "tagger" else chosen.prompt,
                measures={metric.name: cast("ImageMeasure", measure) for metric, measure in measures.items()},
            )
        return cls(run, networks, generator, prompts, validation)

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


class _Unusable(Exception):
    """A file that is left out, and why."""


def _paths(folder: Path) -> list[tuple[Path | None, Path]]:
    """(LQ or None, HQ) of every picture, by name. Raises DataError where there is none."""
    found = pair_folders(folder)
    if found is not None:
        try:
            pairing = pair_up(*found)
        except ImageError as error:
            raise DataError(str(error)) from None
        for sentence in pairing.left_out:
            log.warning("%s", sentence)
        return [(pair.result, pair.truth) for pair in pairing.pairs if pair.truth]
    others: list[Path] = []
    pictures = list(find_pictures(folder, left_out=others.append))
    if others:
        log.warning("%s: %s", folder, left_out_words(others))
    if not pictures:
        raise DataError(f"The folder {folder} has neither pictures nor LR/ and HR/; give one that has.")
    return [(None, path) for path in pictures]


def _read(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes())
    except Exception as error:  # Pillow's decoders raise many kinds
        raise _Unusable(f"{path} cannot be read ({first_line(error)})") from error


def _centre(path: Path, size: tuple[int, int], side: int, multiple: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the crop in a picture of `size` = (width, height)."""
    width, height = (min(length, side) // multiple * multiple for length in size)
    if min(width, height) < min(_SMALLEST, side // multiple * multiple):
        raise _Unusable(f"{path} is too small ({size[0]}x{size[1]} px)")
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def _degraded(hq: Image.Image, preset: str, scale: float, seed: int, index: int) -> Image.Image:
    image = (to_tensor(np.asarray(hq)[None]) + 1) / 2
    lq, _ = degrade(image, preset, scale, seed, resize_back=True, first=index)
    return Image.fromarray(_as_uint8(lq * 2 - 1))


def _enlarged(lq: Image.Image, hq: Image.Image, path: Path) -> Image.Image:
    """The LQ at the size of its HQ, by Pillow's bicubic."""
    if hq.width < lq.width or hq.height < lq.height or not of_one_shape(hq.size, lq.size):
        raise DataError(
            f"{path} has {lq.width}x{lq.height} px, which is no smaller copy of its HQ of {hq.width}x{hq.height} px; "
            "mend or remove the pair."
        )
    return lq if lq.size == hq.size else lq.resize(hq.size, Image.Resampling.BICUBIC)


def _as_uint8(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] -> uint8 (H, W, 3)."""
    levels = ((image[0].nan_to_num() + 1) * 127.5).round().clamp(0, 255)
    return levels.byte().permute(1, 2, 0).cpu().numpy()


def _device_of(distance: Distance) -> torch.device:
    first = next(distance.parameters(), None) if isinstance(distance, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([found[name] for found in figures])) for name in figures[0]}


def _phrase(figures: dict[str, float]) -> str:
    phrase = f"{figures['psnr_y']:.2f} dB   SSIM {figures['ssim_y']:.3f}"
    return phrase + (f"   distance {figures['distance']:.4f}" if "distance" in figures else "")
