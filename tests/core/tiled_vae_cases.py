"""A small VAE on which tiles that go wrong show, inputs for it, and the walk by itself."""

from __future__ import annotations

import torch
from mini_models.networks import tiny_vae
from torch import Tensor

from osediff_core.backends.networks import DiffusersVAE
from osediff_core.tiles.vae import VAETiling
from osediff_core.tiles.vae.stage import transform

MIB = 2**20


def lively_vae() -> DiffusersVAE:
    """Three levels (f = 4), widths that change, two layers a block, mid-block attention."""
    # scaling_factor 1: so that the layers alone are to be compared with the whole
    module = tiny_vae((8, 16, 16), layers_per_block=2, scaling_factor=1.0)
    make_lively(module)
    return DiffusersVAE(module)


def make_lively(module: torch.nn.Module) -> None:
    """Norms and attention that matter: fresh ones scale by one and attend to everything alike."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "to_q" in name or "to_k" in name:
                parameter.mul_(6)


def image(height: int, width: int, batch: int = 1) -> Tensor:
    """Not the same everywhere: statistics of a part are not those of the whole."""
    noise = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    ramp = torch.linspace(-1, 1, width).expand(height, width) * torch.linspace(0, 1, height)[:, None]
    return noise * 0.5 + ramp


def latents(height: int, width: int, batch: int = 1) -> Tensor:
    z = torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(height + width))
    return z + torch.linspace(-2, 2, width)


def encode(vae: DiffusersVAE, x: Tensor, budget: int = 8 * MIB, **tiling: object) -> Tensor:
    return transform(vae.encoder(*x.shape[-2:]), x, VAETiling(**tiling), budget)


def decode(vae: DiffusersVAE, z: Tensor, budget: int = 8 * MIB, **tiling: object) -> Tensor:
    return transform(vae.decoder(*z.shape[-2:]), z, VAETiling(**tiling), budget)
