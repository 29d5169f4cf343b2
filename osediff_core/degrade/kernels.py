"""Blur kernels of Real-ESRGAN (arXiv 2107.10833, section 3.1) as float64 (size, size) arrays that sum to 1.

`size` is odd. `sigmas` are the standard deviations along the kernel's own two axes, in pixels; `angle` turns
these axes, in radians. Formulas as in BasicSR.
"""

from __future__ import annotations

import math

import numpy as np


def gaussian(size: int, sigmas: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """exp(-d / 2), where d is the squared distance in standard deviations."""
    return _normalised(np.exp(-0.5 * _squared_distance(size, sigmas, angle)))


def generalised(size: int, sigmas: tuple[float, float], angle: float, beta: float) -> np.ndarray:
    """exp(-d^beta / 2): beta below 1 has a sharp peak and long tails, beta above 1 a flat top."""
    return _normalised(np.exp(-0.5 * _squared_distance(size, sigmas, angle) ** beta))


def plateau(size: int, sigmas: tuple[float, float], angle: float, beta: float) -> np.ndarray:
    """1 / (1 + d^beta): a flat top and tails heavier than a Gaussian's."""
    return _normalised(1 / (1 + _squared_distance(size, sigmas, angle) ** beta))


def sinc(size: int, cutoff: float) -> np.ndarray:
    """The ideal circular low-pass cut to `size`: it rings and overshoots. cutoff in radians a pixel, up to pi."""
    x, y = _grid(size)
    squared, place = np.unique(x**2 + y**2, return_inverse=True)  # few, as the kernel is round
    distance = np.sqrt(squared[1:])
    ring = cutoff * _bessel_j1(cutoff * distance) / (2 * math.pi * distance)
    values = np.concatenate([[cutoff**2 / (4 * math.pi)], ring])  # in the middle: the limit
    return _normalised(values[place].reshape(size, size))


def shifted(kernel: np.ndarray, shift: float) -> np.ndarray:
    """Moved by `shift` px to the right and down, linear between taps, as BSRGAN does it; the edges are repeated."""
    position = np.clip(np.arange(len(kernel)) - shift, 0, len(kernel) - 1)
    below = np.floor(position).astype(int)
    above, share = np.minimum(below + 1, len(kernel) - 1), position - below
    rows = kernel[below] * (1 - share)[:, None] + kernel[above] * share[:, None]
    return _normalised(rows[:, below] * (1 - share) + rows[:, above] * share)


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """J1 by Bessel's integral: over a whole period the midpoint rule is exact to rounding.

    torch.special.bessel_j1 is off by 4e-7 even in float64, and this saves a dependency on scipy.
    """
    points = 64 + math.ceil(x.max())
    angle = (np.arange(points) + 0.5) * math.pi / points
    return np.cos(angle - x[..., None] * np.sin(angle)).mean(-1)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every tap, (size, size) each, 0 in the middle."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def _squared_distance(size: int, sigmas: tuple[float, float], angle: float) -> np.ndarray:
    x, y = _grid(size)
    along = (x * math.cos(angle) + y * math.sin(angle)) / sigmas[0]
    across = (y * math.cos(angle) - x * math.sin(angle)) / sigmas[1]
    return along**2 + across**2


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()
