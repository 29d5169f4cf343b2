"""Crops to learn from: of any place, size and shape; some recoloured, some put together of two photographs.

The teacher sees every crop as it is, so a crop needs no meaning of its own to be learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance

_SHORT_SIDE = 576  # px: no crop needs more
WIDE = 0.6  # share of the photograph's area from which on a crop shows what the photograph's tags say


@dataclass(frozen=True)
class Crop:
    """image: the crop, of any shape. photo: its number. wide: whether it shows what the photograph's tags say.

    mixed: whether another photograph is in it.
    """

    image: Image.Image
    photo: int
    wide: bool
    mixed: bool


def draw_crop(
    photos: Sequence[Image.Image], photo: int, rng: np.random.Generator, varied: bool = True
) -> Crop:
    """A crop of `photos[photo]`; `varied` allows new colours and parts of another photograph."""
    crop, area = _cut(photos[photo], rng)
    mixed = varied and rng.random() < 0.3
    if mixed:
        other, _ = _cut(photos[int(rng.integers(len(photos)))], rng)
        crop = _combined(crop, other, rng)
    if varied and rng.random() < 0.5:
        crop = _recoloured(crop, rng)
    return Crop(crop, photo, area >= WIDE and not mixed, mixed)


def _cut(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, float]:
    """A random part, and its share of the area; at least 96 px a side where the photograph has them."""
    large = rng.random() < 0.4
    share = rng.uniform(WIDE, 1.0) if large else np.exp(rng.uniform(np.log(0.06), np.log(WIDE)))
    aspect = np.exp(rng.uniform(-1, 1) * np.log(1.5)) * (image.width / image.height if large else 1.0)
    width = min(image.width, max(96, round(float(np.sqrt(share * image.width * image.height * aspect)))))
    height = min(image.height, max(96, round(float(np.sqrt(share * image.width * image.height / aspect)))))
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    scale = min(1.0, _SHORT_SIDE / min(width, height))
    part = image.resize(
        (round(width * scale), round(height * scale)),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
        reducing_gap=2.0,
    )
    return part, width * height / (image.width * image.height)


def _combined(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The other one blended in, or a part of it laid over."""
    other = other.resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.3:
        return Image.blend(image, other, float(rng.uniform(0.2, 0.5)))
    width, height = (int(side * rng.uniform(0.3, 0.75)) for side in image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    image = image.copy()
    image.paste(other.crop((left, top, left + width, top + height)), (left, top))
    return image


def _recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another exposure, saturation and hue; one in ten grey."""
    levels = (np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.6, 0.6)) * 255).round().astype(np.uint8)
    image = image.point(np.tile(levels, 3).tolist())
    if rng.random() < 0.1:
        return image.convert("L").convert("RGB")
    image = ImageEnhance.Color(image).enhance(float(rng.uniform(0.3, 1.6)))
    hue, saturation, value = image.convert("HSV").split()
    shift = int(rng.integers(-14, 15))
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def as_student_sees(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (size, size, 3): as the tagger's preprocessing does it from a picture of a random size.

    It resizes without antialiasing, so the size of the picture before decides how jagged it gets.
    """
    short = min(int(rng.integers(size, 3 * size)), *image.size)
    scale = short / min(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    small = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False)
    return small[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
