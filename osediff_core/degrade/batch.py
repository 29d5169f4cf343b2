"""A batch of pictures: draw for each, apply to each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, OptionError
from ..geometry import target_size
from . import bsrgan, codeformer, realesrgan
from .apply import apply
from .operations import sharpen
from .parameters import Degradation, Resize, Sharpen, Step
from .preset import BSRGAN, BSRGANPlus, CodeFormer, Preset, RealESRGAN
from .preset_files import find_preset


def degrade(
    image: Tensor,
    preset: str = "realesrgan",
    scale: float = 4.0,
    seed: int = 0,
    resize_back: bool = False,
    first: int = 0,
    official: bool | None = None,
) -> tuple[Tensor, list[Degradation]]:
    """Degrades every picture of a batch on its own: image (B, 3, H, W) in [0, 1] -> (lq, what was done).

    lq: fp32 (B, 3, H / scale, W / scale) in [0, 1], sides rounded half up, at least 1, values in 8-bit steps; with
    resize_back enlarged to (H, W) again. preset: a key of PRESETS or the path of a .yaml file. What happens to picture
    i depends on (seed, i) and on its size, not on the other pictures. first: the number of the first picture, for a
    batch that is a part of a larger one. official: instead of the preset's.
    Raises OptionError, ImageError.
    """
    _check_image(image)
    height, width = image.shape[-2:]
    degradations, pictures = [], []
    for index, picture in enumerate(image.float().split(1), start=first):
        degradation = draw(preset, (width, height), scale, seed, index, official)
        if not resize_back:
            degradation = degradation.small()
        pictures.append(apply(picture, degradation))
        degradations.append(degradation)
    return torch.cat(pictures), degradations


def degrade_pair(
    hq: Tensor,
    preset: str = "realesrgan",
    scale: float = 4.0,
    seed: int = 0,
    index: int = 0,
    official: bool | None = None,
) -> tuple[Tensor, Tensor, Degradation]:
    """A pair to train with, from one picture (1, 3, H, W) in [0, 1] -> (lq, hq, what was done).

    lq and hq: fp32 (1, 3, H, W) in [0, 1]; lq is enlarged to that size, hq is sharpened where the preset says so. The
    other arguments are those of `degrade`. Raises OptionError, ImageError.
    """
    _check_image(hq)
    if hq.shape[0] != 1:
        raise ImageError(f"A pair is made of one picture, not of {hq.shape[0]}; call it for each.")
    degradation = draw(preset, (hq.shape[-1], hq.shape[-2]), scale, seed, index, official)
    hq, rest = hq.float().clamp(0, 1), degradation
    if degradation.steps[:1] == (Sharpen(),):
        hq, rest = sharpen(hq), replace(degradation, steps=degradation.steps[1:])
    return apply(hq, rest), hq, degradation


def draw(
    preset: str,
    size: tuple[int, int],
    scale: float = 4.0,
    seed: int = 0,
    index: int = 0,
    official: bool | None = None,
) -> Degradation:
    """The degradation of picture `index` of a batch of `size` = (width, height), with the way back.

    official: instead of the preset's. Raises OptionError for another preset, a scale below 1, a negative seed.
    """
    name, found = find_preset(preset)
    if not (math.isfinite(scale) and scale >= 1):
        raise OptionError(f"The scale factor {scale} must be a number of at least 1, for example 4.")
    if seed < 0:
        raise OptionError(f"The seed {seed} must not be negative; take any whole number from 0.")
    # spawn_key keeps (seed, index) apart for seeds of any length
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))
    target = target_size(*size, scale=1 / scale)
    official = found.official if official is None else official
    steps, back = _draw_steps(found, size, target, scale, official, rng)
    sharpened = [Sharpen()] if found.sharpen_hq else []
    round_last = official and isinstance(found.recipe, RealESRGAN)
    return Degradation(name, size, target, (*sharpened, *steps), back, round_last)


def _draw_steps(
    preset: Preset,
    size: tuple[int, int],
    target: tuple[int, int],
    scale: float,
    official: bool,
    rng: np.random.Generator,
) -> tuple[list[Step], Resize]:
    match preset.recipe:
        case RealESRGAN() as recipe:
            return realesrgan.draw(recipe, size, target, official, rng)
        case CodeFormer() as recipe:
            return codeformer.draw(recipe, size, rng)
        case BSRGAN() as recipe:
            return bsrgan.draw(recipe, size, target, scale, rng)
        case BSRGANPlus() as recipe:
            return bsrgan.draw_plus(recipe, size, target, scale, rng)
    raise TypeError(f"{preset.recipe!r} is no recipe.")


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ImageError(
            f"Only RGB images as float tensors (B, 3, H, W) can be degraded, not {tuple(image.shape)} of "
            f"{image.dtype}; convert the image first."
        )
    if image.numel() == 0:
        raise ImageError(
            f"There is no picture to degrade in a batch of shape {tuple(image.shape)}; give at least one of 1x1."
        )
    if not bool(torch.isfinite(image).all()):
        raise ImageError("The image has values that are not numbers (NaN or infinity); correct what made it.")
