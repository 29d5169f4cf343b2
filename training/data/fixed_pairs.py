"""Fixed pairs to measure on: read from two folders, or degraded from good pictures, the same at every call."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from osediff_core.degrade import degrade
from osediff_core.errors import ImageError, OptionError, first_line
from osediff_core.evaluate.folders import of_one_shape, pair_folders, pair_up
from osediff_core.images import find_pictures, left_out_words

from .errors import DataError
from .pictures import decode, to_tensor

log = logging.getLogger("training")

SEED = 2024
_SMALLEST = 64  # px: below this neither SSIM's window nor a network's features say much


@dataclass(frozen=True)
class ValidationPair:
    """lq, hq: uint8 (H, W, 3) of the same size; the LQ is enlarged already."""

    name: str
    lq: np.ndarray
    hq: np.ndarray


def list_pairs(folder: Path) -> list[tuple[Path | None, Path]]:
    """(LQ, HQ) of `folder`/LR and `folder`/HR (or lq, hq and so on), whose names match; else (None, picture) of each.

    By name. Raises DataError where there is none.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} to validate on; give one, or none for no validation.")
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


def read_pairs(
    path: Path,
    limit: int = 16,
    size: int = 512,
    multiple: int = 8,
    *,
    preset: str = "realesrgan",
    scale: float = 4.0,
    seed: int = SEED,
) -> tuple[list[ValidationPair], list[str]]:
    """The pairs of `path`, as `list_pairs` finds them, and why files were left out, each as a sentence.

    limit: only the first pictures, in order of their names. size: of the centre crops in px, rounded down to
    `multiple`, that of the VAE; smaller pictures keep what they have of it. preset, scale, seed: of
    `osediff_core.degrade`, for pictures without a partner; picture i is degraded by (seed, i). Files that are broken or
    smaller than 64 px are skipped with a warning. Raises DataError where no pair is left, or a pair's sizes do not fit
    each other; OptionError for sizes that cannot be.
    """
    if size // multiple < 1 or limit < 1:
        raise OptionError(
            f"Validation on {limit} crops of {size} px is not possible; take at least one of {multiple} px."
        )
    skipped: list[str] = []
    pairs = []
    for index, (lq_path, hq_path) in enumerate(list_pairs(path)[:limit]):
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
    return pairs, skipped


class _Unusable(Exception):
    """A file that is left out, and why."""


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
    return Image.fromarray(as_uint8(lq * 2 - 1))


def _enlarged(lq: Image.Image, hq: Image.Image, path: Path) -> Image.Image:
    """The LQ at the size of its HQ, by Pillow's bicubic."""
    if hq.width < lq.width or hq.height < lq.height or not of_one_shape(hq.size, lq.size):
        raise DataError(
            f"{path} has {lq.width}x{lq.height} px, which is no smaller copy of its HQ of {hq.width}x{hq.height} px; "
            "mend or remove the pair."
        )
    return lq if lq.size == hq.size else lq.resize(hq.size, Image.Resampling.BICUBIC)


def as_uint8(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] -> uint8 (H, W, 3)."""
    levels = ((image[0].nan_to_num() + 1) * 127.5).round().clamp(0, 255)
    return levels.byte().permute(1, 2, 0).cpu().numpy()
