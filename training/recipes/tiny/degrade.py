"""A light real-world degradation: blur, x4 down, noise, JPEG. One seeded numpy generator a picture.

Two kinds are mixed: "camera" (optical blur, little noise, at most a high-quality JPEG; what RealSR inputs look
like) and "internet" (blur, noise up to 15/255, JPEG 40 to 95). Ranges follow Real-ESRGAN's first order, narrowed.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

SCALE = 4


@dataclass(frozen=True)
class Degradation:
    """Ranges that one picture's parameters are drawn from, uniformly."""

    blur: tuple[float, float]  # standard deviation along each axis, HQ px
    noise: tuple[float, float]  # standard deviation, of 255 levels
    quality: tuple[int, int]  # JPEG; 100 and above: none


CAMERA = Degradation(blur=(0.8, 3.0), noise=(0.0, 3.0), quality=(80, 120))
INTERNET = Degradation(blur=(0.2, 2.6), noise=(0.0, 15.0), quality=(40, 95))
VALIDATION = Degradation(blur=(0.2, 2.6), noise=(0.0, 15.0), quality=(40, 90))
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def _gaussian_kernel(sigmas: tuple[float, float], angle: float) -> np.ndarray:
    """Normalised anisotropic Gaussian (k, k), k odd and at least 3 of the larger deviation."""
    radius = max(1, math.ceil(3 * max(sigmas)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * ((along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2))
    return kernel / kernel.sum()


def _blur(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate float (H, W, 3) with `kernel`, reflecting at the border."""
    import torch
    from torch.nn import functional as F

    radius = kernel.shape[0] // 2
    planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[:, None]
    planes = F.pad(planes, (radius,) * 4, mode="reflect")
    return F.conv2d(planes, torch.from_numpy(kernel)[None, None])[:, 0].numpy().transpose(1, 2, 0)


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def degrade(hq: np.ndarray, ranges: Degradation, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3) with sides divisible by SCALE -> uint8 (H / SCALE, W / SCALE, 3)."""
    sigma = rng.uniform(*ranges.blur)
    ratio = rng.uniform(0.5, 1.0) if rng.random() < 0.4 else 1.0
    blurred = _blur(
        hq.astype(np.float32), _gaussian_kernel((sigma, max(0.2, sigma * ratio)), rng.uniform(0, math.pi))
    )
    height, width = hq.shape[0] // SCALE, hq.shape[1] // SCALE
    resampling = FILTERS[rng.integers(len(FILTERS))]
    planes = [
        Image.fromarray(plane).resize((width, height), resampling) for plane in blurred.transpose(2, 0, 1)
    ]
    small = np.stack([np.asarray(plane) for plane in planes], axis=2)
    noise = rng.standard_normal((height, width, 1 if rng.random() < 0.4 else 3), dtype=np.float32)
    small = (small + rng.uniform(*ranges.noise) * noise).round().clip(0, 255).astype(np.uint8)
    quality = int(rng.integers(ranges.quality[0], ranges.quality[1] + 1))
    return small if quality >= 100 else _jpeg(small, quality)


def enlarge(lq: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Bicubic x`scale` of a uint8 picture by Pillow, as the one-step generator receives it."""
    size = (lq.shape[1] * scale, lq.shape[0] * scale)
    return np.asarray(Image.fromarray(lq).resize(size, Image.Resampling.BICUBIC))
