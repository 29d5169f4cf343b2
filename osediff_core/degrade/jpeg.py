"""JPEG: real, by Pillow, and DiffJPEG, the approximation that OSEDiff was trained with.

How DiffJPEG (BasicSR 1.4.2, `utils/diffjpeg.py`) departs from libjpeg:
- sides are filled up to multiples of 16 with black, which rings into the last blocks; libjpeg repeats the edge;
- the luminance table is transposed: horizontal and vertical detail get each other's step;
- steps are not whole numbers and have no limits; the quality may be fractional;
- chroma is enlarged by repetition; libjpeg interpolates;
- neither its input nor its output is rounded to 8 bits.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ImageError
from .operations import levels

_LONGEST = 65500  # libjpeg's limit for a side

# Annex K of the JPEG standard, [vertical, horizontal] frequency
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def compress_jpeg(image: Tensor, quality: int) -> Tensor:
    """Written to JPEG and read back by Pillow (libjpeg, chroma halved): (1, 3, H, W) -> the same, in 8-bit steps.

    quality 1 to 100. Raises ImageError for sides that JPEG does not have.
    """
    from PIL import Image

    if max(image.shape[-2:]) > _LONGEST:
        raise ImageError(
            f"A JPEG cannot have a side of {max(image.shape[-2:])} pixels; degrade the image in smaller parts."
        )
    buffer = io.BytesIO()
    Image.fromarray(levels(image)[0].permute(1, 2, 0).cpu().numpy()).save(
        buffer, format="JPEG", quality=quality
    )
    decoded = torch.from_numpy(np.array(Image.open(buffer)))
    return decoded.permute(2, 0, 1)[None].to(image.device).float() / 255


@torch.no_grad()
def diff_jpeg(image: Tensor, quality: float | Tensor) -> Tensor:
    """DiffJPEG in its rounding mode: (B, 3, H, W), clipped to [0, 1] first -> the same, in [0, 1].

    quality above 0 and below 100, fractional or not; a number, or a tensor (B,) with one for each picture. Without
    gradients, in spite of the name.
    """
    height, width = image.shape[-2:]
    values = F.pad(image.clamp(0, 1) * 255, (0, -width % 16, 0, -height % 16))
    quality = torch.as_tensor(quality, dtype=torch.float32, device=image.device).reshape(-1, 1, 1, 1)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    ycbcr = _mix(values, _TO_YCBCR)
    luma = _round_coefficients(ycbcr[:, :1] - 128, _table("luminance", image.device) * factor) + 128
    chroma = _round_coefficients(F.avg_pool2d(ycbcr[:, 1:], 2), _table("chrominance", image.device) * factor)
    chroma = chroma.repeat_interleave(2, -2).repeat_interleave(2, -1)
    rgb = _mix(torch.cat([luma, chroma], 1), _TO_RGB)
    return rgb[..., :height, :width].clamp(0, 255) / 255


def _mix(image: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Every pixel's channels times `matrix`."""
    return torch.einsum("ij,bjhw->bihw", torch.tensor(matrix, device=image.device), image)


def _round_coefficients(planes: Tensor, steps: Tensor) -> Tensor:
    """planes (B, C, H, W) around 0, sides multiples of 8; steps (B or 1, 1, 1, 64) -> the same planes, rounded."""
    transform = _block_transform(planes.device)
    blocks = rearrange(planes, "b c (row i) (column j) -> b c (row column) (i j)", i=8, j=8)
    rounded = (blocks @ transform.T / steps).round() * steps
    return rearrange(
        rounded @ transform,
        "b c (row column) (i j) -> b c (row i) (column j)",
        row=planes.shape[-2] // 8,
        i=8,
    )


@lru_cache(maxsize=8)
def _table(name: str, device: torch.device) -> Tensor:
    """(64,); the luminance table as the official code has it, transposed."""
    table = torch.tensor(_LUMINANCE if name == "luminance" else _CHROMINANCE, dtype=torch.float32)
    return table.T.reshape(64).to(device)


@lru_cache(maxsize=8)
def _block_transform(device: torch.device) -> Tensor:
    """(64, 64): the cosine transform of a flattened 8x8 block; orthonormal, so its transpose is the inverse."""
    position = torch.arange(8, dtype=torch.float64)
    transform = torch.cos((2 * position + 1) * position[:, None] * math.pi / 16) / 2
    transform[0] /= math.sqrt(2)
    return torch.kron(transform, transform).float().to(device)
