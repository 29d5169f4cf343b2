"""Filters, resizing, sharpening and rounding, of which degradations are made. Pure functions.

A picture is a float32 tensor (1, 3, H, W) of about [0, 1], any size from 1x1. Filters and bicubic resizing overshoot;
nothing is clipped there, as in Real-ESRGAN.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import reflected
from .kernels import gaussian

_FAST = 32  # transforms of multiples of this are fast
# radius 50, made odd, and OpenCV's sigma for it: 0.3 * (25 - 1) + 0.8
_SHARPEN_TAPS, _SHARPEN_SIGMA = 51, 8.0


def correlate(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Correlation of every channel with `kernel` (k, k), k odd; the border is reflected, the edge not repeated.

    image (B, C, H, W). A kernel larger than the picture is no obstacle: the reflection goes to and fro. By Fourier
    transforms, which are faster than summing for all kernels from 7 taps a side, the smallest there are.
    """
    radius = kernel.shape[0] // 2
    height, width = image.shape[-2:]
    rows = reflected(height, -radius, height + radius, image.device)
    columns = reflected(width, -radius, width + radius, image.device)
    padded = image.index_select(-2, rows).index_select(-1, columns)
    weight = torch.from_numpy(kernel).to(image)
    size = [-(-side // _FAST) * _FAST for side in padded.shape[-2:]]
    # the conjugate makes a correlation of the product; what wraps round lies outside of the part that is kept
    spectrum = torch.fft.rfft2(padded, size) * torch.fft.rfft2(weight, size).conj()
    return torch.fft.irfft2(spectrum, size)[..., :height, :width]


def resized_length(length: int, factor: float) -> int:
    """The length of a side after `resize_by`, at least 1."""
    return max(1, math.floor(length * factor))


def resize_by(image: Tensor, factor: float, mode: str, antialias: bool = False) -> Tensor:
    """Both sides times `factor`, rounded down. mode: area, bilinear, bicubic.

    The sampling grid follows `factor` itself, not the ratio of the rounded sizes, as in the official code. Without
    antialias bilinear and bicubic shrinking skips pixels, as in the official code; area never does.
    """
    height, width = image.shape[-2:]
    if min(height, width) * factor < 1:  # torch would leave no pixel
        return resize_to(
            image, (resized_length(width, factor), resized_length(height, factor)), mode, antialias
        )
    return F.interpolate(image, scale_factor=factor, mode=mode, antialias=antialias and mode != "area")


def resize_to(image: Tensor, size: tuple[int, int], mode: str, antialias: bool = False) -> Tensor:
    """To `size` = (width, height). mode and antialias as for `resize_by`."""
    height_width = (size[1], size[0])
    return F.interpolate(image, size=height_width, mode=mode, antialias=antialias and mode != "area")


@torch.no_grad()
def sharpen(image: Tensor, weight: float = 0.5, threshold: float = 10.0) -> Tensor:
    """Unsharp mask of Real-ESRGAN for training targets: (B, 3, H, W) in [0, 1] -> the same, in [0, 1].

    Only what differs from its surroundings (a Gaussian of 51 taps) by more than `threshold` of 255 levels is
    sharpened, with a soft transition.
    """
    kernel = gaussian(_SHARPEN_TAPS, (_SHARPEN_SIGMA, _SHARPEN_SIGMA))
    detail = image - correlate(image, kernel)
    mask = correlate((detail.abs() * 255 > threshold).to(image), kernel)
    return image + mask * ((image + weight * detail).clamp(0, 1) - image)


def levels(image: Tensor) -> Tensor:
    """The nearest 8-bit levels, uint8."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def quantise(image: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to multiples of 1/255, as an image file holds it."""
    return levels(image).float() / 255
