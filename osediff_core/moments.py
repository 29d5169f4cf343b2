"""What a VAE's encoder gives: the moments of a Gaussian for each latent."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST, _MOST = -30.0, 20.0  # of logvar; the bounds of Stable Diffusion's own code


def split(moments: Tensor, latent_channels: int) -> tuple[Tensor, Tensor]:
    """moments (B, 2 C or C, h, w) -> mean, logvar (B, C, h, w).

    logvar is clamped as in Stable Diffusion; where there is none (C channels: no posterior) it is the lower bound.
    """
    if moments.shape[1] == latent_channels:
        return moments, torch.full_like(moments, _LEAST)
    mean, logvar = moments.chunk(2, dim=1)
    return mean, logvar.clamp(_LEAST, _MOST)
