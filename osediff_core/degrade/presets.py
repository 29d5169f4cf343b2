"""How bad is bad: the ranges that degradations are drawn from, as data.

A `Range` is (low, high), drawn uniformly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Range = tuple[float, float]

MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class BlurRanges:
    """A kernel: with probability `sinc` a sinc filter, else a family by its weights (isotropic, anisotropic)."""

    sigma: Range  # px, along each axis
    probability: float = 1.0  # of blurring at all
    sizes: tuple[int, ...] = tuple(range(7, 22, 2))
    sinc: float = 0.0
    gaussian: tuple[float, float] = (0.6, 0.4)
    generalised: tuple[float, float] = (0.0, 0.0)
    plateau: tuple[float, float] = (0.0, 0.0)
    # Half of the exponents are below 1, half above; for the plateau the official lower half is exactly 1.
    generalised_beta: tuple[Range, Range] = ((0.5, 1.0), (1.0, 4.0))
    plateau_beta: tuple[Range, Range] = ((1.0, 1.0), (1.0, 2.0))


@dataclass(frozen=True)
class ResizeRanges:
    """Enlarge, shrink, or neither, with these probabilities; factors. The last order's refer to the target size."""

    up: float
    down: float
    keep: float
    largest: float
    smallest: float


@dataclass(frozen=True)
class NoiseRanges:
    """Gaussian or Poisson noise, in one field for all channels with probability `grey`."""

    gaussian: Range  # standard deviation, of 255 levels
    poisson: Range = (0.0, 0.0)  # factor
    gaussian_share: float = 1.0
    grey: float = 0.4


@dataclass(frozen=True)
class Order:
    """One round of blur, resize, noise and JPEG; what is None is left out."""

    blur: BlurRanges | None = None
    resize: ResizeRanges | None = None
    noise: NoiseRanges | None = None
    jpeg: tuple[int, int] | None = None  # quality, both ends included


@dataclass(frozen=True)
class Preset:
    """One or more orders. The last one brings the picture to its target size and may end in a sinc filter."""

    summary: str
    orders: tuple[Order, ...]
    final_sinc: float = 0.0  # probability
    jpeg_last: float = 1.0  # probability that the last JPEG comes after the target size, not before it
    modes: tuple[str, ...] = MODES
    antialias: bool = True  # of bilinear and bicubic; Real-ESRGAN's own has none
    back: tuple[str, ...] = ("bicubic",)  # modes that enlarge to the old size


_OFFICIAL_KERNELS = {
    "sinc": 0.1,
    "gaussian": (0.45, 0.25),
    "generalised": (0.12, 0.03),
    "plateau": (0.12, 0.03),
}

# Cutoffs of sinc filters, radians a pixel: a large kernel may blur more. Official.
SINC_CUTOFF = (math.pi / 3, math.pi)
SINC_CUTOFF_LARGE = (math.pi / 5, math.pi)
SINC_LARGE = 13

# Light kernels are as large as their widest blur needs.
_WIDE = (21,)

PRESETS: dict[str, Preset] = {
    "realesrgan": Preset(
        summary="what OSEDiff is trained on: blur, resize, noise and JPEG twice, as in Real-ESRGAN",
        orders=(
            Order(
                blur=BlurRanges(sigma=(0.2, 3.0), **_OFFICIAL_KERNELS),
                resize=ResizeRanges(up=0.2, down=0.7, keep=0.1, largest=1.5, smallest=0.15),
                noise=NoiseRanges(gaussian=(1, 30), poisson=(0.05, 3.0), gaussian_share=0.5),
                jpeg=(30, 95),
            ),
            Order(
                blur=BlurRanges(sigma=(0.2, 1.5), probability=0.8, **_OFFICIAL_KERNELS),
                resize=ResizeRanges(up=0.3, down=0.4, keep=0.3, largest=1.2, smallest=0.3),
                noise=NoiseRanges(gaussian=(1, 25), poisson=(0.05, 2.5), gaussian_share=0.5),
                jpeg=(30, 95),
            ),
        ),
        final_sinc=0.8,
        jpeg_last=0.5,
        antialias=False,
        back=MODES,
    ),
    "light": Preset(
        summary="a picture from the web: blur, a little noise, JPEG 40 to 90",
        orders=(
            Order(
                blur=BlurRanges(sigma=(0.2, 2.6), sizes=_WIDE),
                noise=NoiseRanges(gaussian=(0, 15)),
                jpeg=(40, 90),
            ),
        ),
    ),
    "jpeg": Preset(
        summary="smaller and JPEG 30 to 90, nothing else",
        orders=(Order(jpeg=(30, 90)),),
        modes=("bicubic",),
    ),
    "blur": Preset(
        summary="out of focus and smaller, nothing else",
        orders=(Order(blur=BlurRanges(sigma=(0.5, 3.0), sizes=_WIDE)),),
        modes=("bicubic",),
    ),
}
