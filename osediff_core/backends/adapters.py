"""diffusers' AutoencoderKL and UNet2DConditionModel behind the generator's ports.

The wrapped network is at hand as `.module`: LoRA is merged into it for inference, or attached for training.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..torch_part import TorchPart


class DiffusersVAE(TorchPart):
    """LatentCodec over an AutoencoderKL of any depth and any number of latent channels."""

    module: AutoencoderKL

    def __init__(self, module: AutoencoderKL) -> None:
        super().__init__(module)
        self.downscale = 2 ** (len(module.config.block_out_channels) - 1)
        self.latent_channels = int(module.config.latent_channels)
        self.scaling_factor = float(module.config.scaling_factor)

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

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) -> prediction (B, C, h, w)."""
        return self.module(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.to(self.device, self.dtype),
        ).sample
