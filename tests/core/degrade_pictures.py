"""Pictures that degradations are tried on, and measures of what became of them."""

import math

import numpy as np
import torch


def synthetic(kind, size=128):
    """A picture (1, 3, size, size) of shading, flat patches with hard edges, and in odd kinds a fine texture."""
    rng = np.random.default_rng(kind)
    y, x = np.mgrid[:size, :size] / size
    picture = np.stack(
        [0.5 + 0.3 * np.cos(3 * x + phase) * np.cos(2 * y - phase) for phase in (0.2, 0.9, 1.7)]
    )
    for _ in range(14):
        left, top, right, bottom = (rng.uniform(0, 1, 4) * size).astype(int)
        picture[:, min(top, bottom) : max(top, bottom), min(left, right) : max(left, right)] = rng.uniform(
            0, 1, (3, 1, 1)
        )
    if kind % 2:
        picture += 0.08 * np.sin(2 * math.pi * (0.31 * x + 0.17 * y) * size)
    levels = np.round(picture.clip(0, 1) * 255)
    return torch.from_numpy(levels).float()[None] / 255


def psnr(image, other):
    return float(-10 * torch.log10(((image - other) ** 2).mean()))


def high_frequencies(image):
    """Spectral power above half the Nyquist frequency, and its share of the whole; without the mean."""
    grey = image[0].mean(0)
    power = torch.fft.fft2(grey - grey.mean()).abs() ** 2
    frequency = [torch.fft.fftfreq(side) for side in grey.shape]
    high = torch.hypot(frequency[0][:, None], frequency[1][None]) > 0.25
    return float(power[high].sum()), float(power[high].sum() / power.sum())
