"""What a degradation is made of: filter, resize, noise, JPEG. Pure functions.

A picture is a float32 tensor (1, 3, H, W) of about [0, 1], any size from 1x1. Filters and bicubic resizing overshoot;
nothing is clipped there, as in Real-ESRGAN, while noise and JPEG give [0, 1].
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError
from ..geometry import reflected

# torchvision's grey, which the official code takes; they sum to 0.9999
_LUMA = (0.2989, 0.587, 0.114)
_LONGEST_JPEG = 65500  # libjpeg's limit for a side


def correlate(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Correlation of every channel with `kernel` (k, k), k odd; the border is reflected, the edge not repeated.

    A kernel larger than the picture is no obstacle: the reflection goes to and fro.
    """
    radius = kernel.shape[0] // 2
    height, width = image.shape[-2:]
    rows = reflected(height, -radius, height + radius, image.device)
    columns = reflected(width, -radius, width + radius, image.device)
    planes = image.index_select(-2, rows).index_select(-1, columns).transpose(0, 1)  # channels as a batch
    weight = torch.from_numpy(kernel).to(image)[None, None]
    return F.conv2d(planes, weight).transpose(0, 1)


def resized_length(length: int, factor: float) -> int:
    """What a side of `length` is after `resize_by`: at least 1."""
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


def add_gaussian_noise(image: Tensor, sigma: float, grey: bool, seed: int) -> Tensor:
    """Normal noise of standard deviation `sigma` / 255, then clipped. grey: one field for all channels."""
    channels = 1 if grey else image.shape[1]
    field = torch.randn((1, channels, *image.shape[-2:]), generator=_generator(seed))
    return (image + field.to(image.device) * sigma / 255).clamp(0, 1)


def add_poisson_noise(image: Tensor, strength: float, grey: bool, seed: int) -> Tensor:
    """Photon noise of a sensor that counts as many photons as the picture has levels; times `strength`, clipped.

    The count at white is the number of distinct 8-bit levels, rounded up to a power of two, so a flat picture gets
    very strong noise: the official code does that too. grey: noise of the brightness, for all channels alike.
    """
    source = image.cpu()
    if grey:
        source = (source * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    levels = _levels(source)
    source = levels.float() / 255
    photons = 2.0 ** math.ceil(math.log2(levels.unique().numel()))
    counted = torch.poisson(source * photons, generator=_generator(seed)) / photons
    return (image + (counted - source).to(image.device) * strength).clamp(0, 1)


def compress_jpeg(image: Tensor, quality: int) -> Tensor:
    """Written to JPEG and read back by Pillow (libjpeg, chroma halved). quality 1 to 95; a result in 8-bit steps.

    Raises ImageError for sides that JPEG does not have.
    """
    from PIL import Image

    if max(image.shape[-2:]) > _LONGEST_JPEG:
        raise ImageError(
            f"A JPEG cannot have a side of {max(image.shape[-2:])} pixels; degrade the image in smaller parts."
        )
    buffer = io.BytesIO()
    Image.fromarray(_levels(image)[0].permute(1, 2, 0).cpu().numpy()).save(
        buffer, format="JPEG", quality=quality
    )
    decoded = torch.from_numpy(np.array(Image.open(buffer)))
    return decoded.permute(2, 0, 1)[None].to(image.device).float() / 255


def quantise(image: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to multiples of 1/255, as an image file holds it."""
    return _levels(image).float() / 255


def _levels(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def _generator(seed: int) -> torch.Generator:
    """Always the CPU's, so that a seed means the same noise on every device."""
    return torch.Generator().manual_seed(seed)
