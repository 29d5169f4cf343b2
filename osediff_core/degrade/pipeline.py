"""A batch of pictures: draw for each, apply to each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, OptionError
from . import realesrgan
from .apply import apply
from .parameters import Degradation
from .presets import PRESETS


def degrade(
    image: Tensor,
    preset: str = "realesrgan",
    scale: float = 4.0,
    seed: int = 0,
    resize_back: bool = False,
    first: int = 0,
) -> tuple[Tensor, list[Degradation]]:
    """Degrades every picture of a batch on its own: image (B, 3, H, W) in [0, 1] -> (lq, what was done).

    lq: fp32 (B, 3, H / scale, W / scale) in [0, 1], sides rounded half up, at least 1, values in 8-bit steps; with
    resize_back enlarged to (H, W) again. preset: a key of PRESETS. What happens to picture i depends on
    (seed, i) and on its size, not on the other pictures. first: the number of the first picture, for a batch that
    is a part of a larger one.
    Raises OptionError, ImageError.
    """
    _check_image(image)
    height, width = image.shape[-2:]
    degradations, pictures = [], []
    for index, picture in enumerate(image.float().split(1), start=first):
        degradation = draw(preset, (width, height), scale, seed, index)
        if not resize_back:
            degradation = replace(degradation, back=None)
        pictures.append(apply(picture, degradation))
        degradations.append(degradation)
    return torch.cat(pictures), degradations


def draw(
    preset: str, size: tuple[int, int], scale: float = 4.0, seed: int = 0, index: int = 0
) -> Degradation:
    """What `degrade` does to picture `index` of a batch of `size` = (width, height), with the way back.

    Raises OptionError for another preset, a scale below 1, a negative seed.
    """
    if preset not in PRESETS:
        raise OptionError(
            f"There is no degradation preset named {preset!r}; choose one of {', '.join(PRESETS)}."
        )
    if not (math.isfinite(scale) and scale >= 1):
        raise OptionError(f"The scale factor {scale} must be a number of at least 1, for example 4.")
    if seed < 0:
        raise OptionError(f"The seed {seed} must not be negative; take any whole number from 0.")
    # spawn_key keeps (seed, index) apart for seeds of any length
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))
    return realesrgan.draw(preset, PRESETS[preset], size, scale, rng)


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
        raise ImageError("The image has values that are not numbers (NaN or infinity); mend what made it.")
