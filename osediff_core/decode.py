"""Decoding: restored latents become the image."""

from __future__ import annotations

from torch import Tensor

from .ports import LatentCodec, Progress
from .runtime.stage import run_stage
from .tiles.vae import AUTO, VAETiling, run


def decode(
    vae: LatentCodec, latents: Tensor, *, tiling: VAETiling = AUTO, progress: Progress | None = None
) -> Tensor:
    """Scaled latents z_H (B, C, h, w) -> restored image x_H = D(z_H / s) (B, 3, f h, f w), fp32, clamped to [-1, 1].

    tiling, progress: as in `encode`. Raises OptionError for tiles while training, OutOfDisk, OutOfMemory,
    NonFiniteError.
    """
    latents = latents.contiguous()  # as in `encode`

    def stage() -> Tensor:
        network = vae.decoder(*latents.shape[-2:])
        return run("decode", network, latents, lambda: vae.decode(latents), tiling, progress)

    return run_stage("decode", vae, stage).clamp(-1, 1)
