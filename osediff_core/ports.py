"""Ports of the generator: what it asks of a VAE, a UNet and a text encoder, and nothing more.

The algorithm is written once against these. `backends/` implements them with diffusers and transformers, the pack's
`nodes/native/` with ComfyUI's own models; another runtime may bring its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .layers import Network
from .runtime.gradients import Trainable
from .runtime.stage import HasFp32
from .tiles.grid import Tile

# progress(done, total), called as tiles are done; it may raise to stop the work
Progress = Callable[[int, int], None]


@runtime_checkable
class LatentCodec(HasFp32, Protocol):
    """The VAE: images (B, 3, H, W) in [-1, 1] to and from scaled latents (B, C, H / f, W / f), of variance about 1.

    How it scales and shifts its latents is its own business (`LatentScale`).
    """

    @property
    def downscale(self) -> int:
        """f: image pixels per latent along each axis (8 for Stable Diffusion)."""
        ...

    @property
    def latent_channels(self) -> int:
        """C (4 for Stable Diffusion)."""
        ...

    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1], sides multiples of f -> posterior (B, 2 C, H/f, W/f), fp32.

        That is mean and standard deviation of the scaled latents, one after the other along the channels.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> image (B, 3, f h, f w), about [-1, 1], not clamped."""
        ...

    def encoder(self, height: int, width: int) -> Network | None:
        """`encode` as layers, for tiles.

        Ready for images of that size: what has to be loaded is loaded. None if it has layers that cannot be described.
        """
        ...

    def decoder(self, height: int, width: int) -> Network | None:
        """`decode` as layers, for tiles, ready for latents of that size; as `encoder`."""
        ...


@runtime_checkable
class NoisePredictor(HasFp32, Trainable, Protocol):
    """The UNet: what it predicts (noise, v) is said by the schedule's prediction_type."""

    @property
    def bytes_per_latent(self) -> int | None:
        """Peak activation bytes for each place of the latents; None where the runtime makes room by itself."""
        ...

    @property
    def device(self) -> torch.device | None:
        """The device it computes and answers on, wherever its input is; None: that of its input."""
        ...

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None) -> Tensor:
        """Scaled latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) -> prediction (B, C, h, w).

        prompt_embeds is None for a predictor that holds its own conditioning.
        """
        ...


@runtime_checkable
class PlacedPredictor(Protocol):
    """A NoisePredictor whose own conditioning is not the same everywhere in the picture."""

    def on(self, tiles: Sequence[Tile]) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """The predictor for a batch of these tiles of the latents, one after the other: as its own call."""
        ...


@runtime_checkable
class PromptEncoder(HasFp32, Protocol):
    """The text encoder."""

    def __call__(self, prompts: list[str]) -> Tensor:
        """B prompts -> prompt_embeds (B, L, D); L = 77, D = 1024 for SD 2.1."""
        ...

    def fits(self, prompt: str) -> bool:
        """Whether it reads the whole prompt."""
        ...


@runtime_checkable
class ImageRestorer(HasFp32, Protocol):
    """A method that is one network from image to image, without latents, prompt or schedule."""

    @property
    def scale(self) -> int:
        """How many pixels along each axis become of one (4 for AdcSR)."""
        ...

    @property
    def multiple(self) -> int:
        """What the sides that it takes are multiples of (16 for AdcSR)."""
        ...

    def __call__(self, lq: Tensor) -> Tensor:
        """lq (B, 3, h, w) in [-1, 1] -> image (B, 3, scale h, scale w), about [-1, 1], fp32, not finished."""
        ...

    def finish(self, image: Tensor, lq: Tensor) -> Tensor:
        """What the method does to the whole image at the end, by the whole LQ; fp32, not clamped."""
        ...


class LatentScale(NamedTuple):
    """From what a VAE's networks compute to scaled latents and back: z = scale (z_network - shift)."""

    scale: float = 1.0
    shift: float = 0.0

    def posterior(self, moments: Tensor, latent_channels: int) -> Tensor:
        """An encoder's output, (B, 2 C, h, w) with mean and logvar, or (B, C, h, w) -> posterior, fp32.

        logvar is clamped as in Stable Diffusion's own code; without one there is nothing to draw, and the standard
        deviation is 0.
        """
        moments = moments.float()
        if moments.shape[1] == latent_channels:
            mean, std = moments, torch.zeros_like(moments)
        else:
            mean, logvar = moments.chunk(2, dim=1)
            std = torch.exp(0.5 * logvar.clamp(-30.0, 20.0))
        return torch.cat([self.scale * (mean - self.shift), self.scale * std], dim=1)

    def undo(self, latents: Tensor) -> Tensor:
        """Scaled latents -> what a decoder takes, of the same shape and dtype."""
        return latents / self.scale + self.shift
