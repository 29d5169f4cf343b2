"""Encoding: a low-quality image becomes the latents z_L that the one step starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import ImageError
from .ports import LatentCodec, Progress
from .runtime.stage import run_stage
from .tiles.vae import AUTO, VAETiling, run


def encode(
    vae: LatentCodec,
    lq: Tensor,
    sample_posterior: bool = False,
    generator: torch.Generator | None = None,
    posterior_noise: Tensor | None = None,
    *,
    tiling: VAETiling = AUTO,
    progress: Progress | None = None,
) -> Tensor:
    """LQ image -> scaled latents z_L = s E(x_L), fp32.

    lq (B, 3, H, W) in [-1, 1], H and W multiples of f = vae.downscale -> (B, C, H/f, W/f).
    The posterior's mode is taken; with sample_posterior, a draw from it (as the official code does, unseeded). The
    draw uses `generator`, on that generator's device, so that a CPU seed means the same everywhere; or posterior_noise,
    standard normal, of the latents' shape.
    tiling: how the VAE is tiled; by default where the image whole would need too much memory or its attention
    minutes. progress(done, total): called as tiles are done; it may raise to stop the work.
    Raises ImageError if the shape does not suit, OptionError for tiles while training, OutOfDisk, OutOfMemory,
    NonFiniteError.
    """
    check_rgb(lq)
    _check_sides(lq, vae.downscale)
    # Resizing gives channels-last images, that layout spreads through a network, and PyTorch's group norm of it on the
    # CPU is off by up to 7e-4 (in any other layout 1e-6). In half precision networks choose it themselves
    # (backends/speed.py).
    lq = lq.contiguous()

    def stage() -> Tensor:
        return run("encode", vae.encoder(*lq.shape[-2:]), lq, lambda: vae.encode(lq), tiling, progress)

    mean, std = run_stage("encode", vae, stage).chunk(2, dim=1)
    if posterior_noise is None:
        if not sample_posterior:
            return mean
        where = mean.device if generator is None else generator.device
        posterior_noise = torch.randn(mean.shape, generator=generator, device=where)
    return mean + std * posterior_noise.to(mean)


def check_rgb(image: Tensor) -> None:
    """Raise ImageError unless the shape is (B, 3, H, W)."""
    if image.dim() != 4 or image.shape[1] != 3:
        raise ImageError(
            f"An image has the shape (batch, 3, height, width), not {tuple(image.shape)}; give RGB images."
        )


def _check_sides(image: Tensor, multiple: int) -> None:
    height, width = image.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        raise ImageError(
            f"The image is {width}x{height}, but the VAE takes sides that are multiples of {multiple}; pad it "
            "first (restore() does) or resize it."
        )
