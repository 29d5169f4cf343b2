"""diffusers' AutoencoderKL and UNet2DConditionModel behind the generator's ports.

The wrapped network is at hand as `.module`: LoRA is merged into it for inference, or attached for training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..runtime.torch_part import TorchPart
from ..tiles.vae import Network
from ..tiles.vae.layers import Layer
from .vae_layers import UnknownLayer, decoder_layers, encoder_layers

logger = logging.getLogger(__name__)


class DiffusersVAE(TorchPart):
    """LatentCodec over an AutoencoderKL of any depth and any number of latent channels."""

    module: AutoencoderKL

    def __init__(self, module: AutoencoderKL) -> None:
        super().__init__(module)
        self.downscale = 2 ** (len(module.config.block_out_channels) - 1)
        self.latent_channels = int(module.config.latent_channels)
        self.scaling_factor = float(module.config.scaling_factor)

    def encoder(self, height: int, width: int) -> Network | None:
        """image -> moments, for tiles; None if some layer is not Stable Diffusion's."""
        return self._network(encoder_layers, 1)

    def decoder(self, height: int, width: int) -> Network | None:
        """Unscaled latents -> image, for tiles; None if some layer is not Stable Diffusion's."""
        return self._network(decoder_layers, self.downscale)

    def _network(self, layers: Callable[[AutoencoderKL], list[Layer]], pixels: int) -> Network | None:
        try:
            found = layers(self.module)
        except UnknownLayer as unknown:
            logger.info("this VAE is not tiled: it has %s", unknown)
            return None
        return Network(found, self.device, self.dtype, pixels, self.requires_grad)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) in [-1, 1] -> mean, logvar (B, C, H/f, W/f) of the unscaled latents."""
        posterior = self.module.encode(image.to(self.device, self.dtype)).latent_dist
        return posterior.mean, posterior.logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (B, C, h, w) -> image (B, 3, f h, f w), about [-1, 1], not clamped."""
        return self.module.decode(latents.to(self.device, self.dtype)).sample


class DiffusersUNet(TorchPart):
    """NoisePredictor over a UNet2DConditionModel."""

    module: UNet2DConditionModel

    @property
    def bytes_per_latent(self) -> int:
        """Measured on a CPU: 21 elements per channel of the first level for two levels, 28 to 38 for SD 2.1's four."""
        return 40 * self.module.config.block_out_channels[0] * self.dtype.itemsize

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) -> prediction (B, C, h, w)."""
        return self.module(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.to(self.device, self.dtype),
        ).sample
