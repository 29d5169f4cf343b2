"""The three ports of the generator: what it needs of a VAE, a UNet and a text encoder, and nothing more.

The algorithm is written once against these. `backends/` implements them with diffusers and transformers;
another runtime may bring its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from .runtime.device import HasFp32

if TYPE_CHECKING:
    from .tiles.vae import Network


@runtime_checkable
class LatentCodec(HasFp32, Protocol):
    """The VAE: images (B, 3, H, W) in [-1, 1] to and from UNSCALED latents (B, C, H / f, W / f).

    downscale: f, image pixels per latent, along each axis (8 for Stable Diffusion).
    latent_channels: C (4 for Stable Diffusion).
    scaling_factor: s; the generator works on latents times s, whose variance is about 1.
    """

    downscale: int
    latent_channels: int
    scaling_factor: float

    def encoder(self, height: int, width: int) -> Network | None:
        """The encoder as layers, for tiles: image (B, 3, H, W) -> moments (`moments.split`).

        Ready for images of that size: what has to be loaded is loaded. None if it has layers that cannot be described.
        """
        ...

    def decoder(self, height: int, width: int) -> Network | None:
        """The decoder as layers, for tiles: unscaled latents (B, C, h, w) -> image; as `encoder`."""
        ...

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) in [-1, 1], sides multiples of f -> posterior mean, logvar (B, C, H/f, W/f)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (B, C, h, w) -> image (B, 3, f h, f w), about [-1, 1], not clamped."""
        ...


@runtime_checkable
class NoisePredictor(HasFp32, Protocol):
    """The UNet: what is predicted (noise, v) is said by the schedule's prediction_type.

    bytes_per_latent: about what it holds at its worst moment for each place of its input, besides its weights; None
    where the runtime makes room by itself.
    device: where it computes and answers, wherever its input is; None: where its input is.
    """

    bytes_per_latent: int | None
    device: torch.device | None

    def requires_grad(self) -> bool:
        """Whether any of its weights is trained."""
        ...

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None) -> Tensor:
        """Scaled latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) -> prediction (B, C, h, w).

        prompt_embeds is None for a predictor that holds its own conditioning.
        """
        ...


@runtime_checkable
class PromptEncoder(HasFp32, Protocol):
    """The text encoder."""

    def __call__(self, prompts: list[str]) -> Tensor:
        """B prompts -> prompt_embeds (B, L, D); L = 77, D = 1024 for SD 2.1."""
        ...
