"""Noise of Real-ESRGAN (BasicSR) and BSRGAN. Pure functions: image (1, 3, H, W) -> the same, clipped to [0, 1].

A seed means the same noise on every device: random numbers come from the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .operations import levels

Covariance = tuple[tuple[float, ...], ...]  # 3 x 3, between the channels

# torchvision's grey, which the official code takes; they sum to 0.9999
_LUMA = (0.2989, 0.587, 0.114)


def add_gaussian_noise(image: Tensor, sigma: float, grey: bool, seed: int) -> Tensor:
    """Normal noise of standard deviation `sigma` / 255. grey: one field for all channels."""
    return (image + _normal(image, grey, seed) * sigma / 255).clamp(0, 1)


def add_correlated_noise(image: Tensor, covariance: Covariance, seed: int) -> Tensor:
    """Normal noise with `covariance` between the channels, in units of levels squared."""
    return (image + _correlated(image, covariance, seed)).clamp(0, 1)


def add_speckle_noise(
    image: Tensor, sigma: float, grey: bool, seed: int, covariance: Covariance | None = None
) -> Tensor:
    """Normal noise times the picture: of standard deviation `sigma` / 255, or with `covariance`, at white."""
    source = image.clamp(0, 1)
    if covariance is None:
        field = _normal(image, grey, seed) * sigma / 255
    else:
        field = _correlated(image, covariance, seed)
    return (source + source * field).clamp(0, 1)


def add_poisson_noise(image: Tensor, strength: float, grey: bool, seed: int) -> Tensor:
    """Photon noise of a sensor that counts as many photons as the picture has levels; times `strength`.

    The count at white is the number of distinct 8-bit levels, rounded up to a power of two, so a flat picture gets
    very strong noise: the official code does that too. grey: noise of the brightness, for all channels alike.
    """
    source = levels(_brightness(image) if grey else image.cpu())
    photons = 2.0 ** math.ceil(math.log2(int((torch.bincount(source.flatten()) > 0).sum())))
    return (image + _shot_noise(source, photons, seed).to(image.device) * strength).clamp(0, 1)


def add_photon_noise(image: Tensor, photons: float, grey: bool, seed: int) -> Tensor:
    """Photon noise of a sensor that counts `photons` at white; the picture is rounded to 8 bits first.

    grey: noise of the brightness, for all channels alike.
    """
    source = levels(_brightness(image) if grey else image.cpu())
    rounded = levels(image).float() / 255
    return (rounded + _shot_noise(source, photons, seed).to(image.device)).clamp(0, 1)


def _shot_noise(source: Tensor, photons: float, seed: int) -> Tensor:
    """The noise of counting the photons of uint8 `source`, on the CPU."""
    expected = source.float() / 255
    return torch.poisson(expected * photons, generator=_generator(seed)) / photons - expected


def _brightness(image: Tensor) -> Tensor:
    """(1, 3, H, W) -> (1, 1, H, W) on the CPU."""
    return (image.cpu() * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _normal(image: Tensor, grey: bool, seed: int) -> Tensor:
    channels = 1 if grey else image.shape[1]
    return torch.randn((1, channels, *image.shape[-2:]), generator=_generator(seed)).to(image.device)


def _correlated(image: Tensor, covariance: Covariance, seed: int) -> Tensor:
    # A covariance made by absolute values may have negative eigenvalues; they count as none.
    values, vectors = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64) / 255**2)
    mix = (vectors * values.clamp_min(0).sqrt()).float().to(image.device)
    return torch.einsum("ij,bjhw->bihw", mix, _normal(image, False, seed))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
