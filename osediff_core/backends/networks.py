"""diffusers' AutoencoderKL and UNet2DConditionModel behind the generator's ports.

The wrapped network is at hand as `.module`: LoRA is merged into it for inference, or attached for training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..errors import OptionError
from ..layers import Layer, Network
from ..ports import LatentCodec, LatentScale, NoisePredictor
from ..runtime.torch_part import TorchPart
from .vae_layers import UnknownLayer, decoder_layers, encoder_layers

logger = logging.getLogger(__name__)


class DiffusersVAE(TorchPart):
    """LatentCodec over an AutoencoderKL of any depth and any number of latent channels."""

    module: AutoencoderKL

    def __init__(self, module: AutoencoderKL) -> None:
        super().__init__(module)
        self.downscale = 2 ** (len(module.config["block_out_channels"]) - 1)
        self.latent_channels = int(module.config["latent_channels"])
        self.scaling_factor = float(module.config["scaling_factor"])
        self._scale = LatentScale(self.scaling_factor, module.config.get("shift_factor") or 0.0)

    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] -> posterior (B, 2 C, H/f, W/f) of the scaled latents: mean, deviation."""
        (found,) = self.module.encode(image.to(self.device, self.dtype), return_dict=False)
        return self._posterior(found.parameters)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> image (B, 3, f h, f w), about [-1, 1], not clamped, fp32."""
        latents = self._scale.undo(latents).to(self.device, self.dtype)
        # diffusers names the type of old PyTorch releases for any tensor
        return self.module.decode(latents, return_dict=False)[0].float()  # pyright: ignore[reportArgumentType]

    def _posterior(self, moments: Tensor) -> Tensor:
        return self._scale.posterior(moments, self.latent_channels)

    def encoder(self, height: int, width: int) -> Network | None:
        """`encode` as layers, for tiles; None if some layer is not Stable Diffusion's."""
        return self._network(encoder_layers, pixels=1, after=self._posterior)

    def decoder(self, height: int, width: int) -> Network | None:
        """`decode` as layers, for tiles; None if some layer is not Stable Diffusion's."""
        return self._network(decoder_layers, pixels=self.downscale, before=self._scale.undo)

    def _network(
        self,
        layers: Callable[[AutoencoderKL], list[Layer]],
        pixels: int,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Network | None:
        try:
            found = layers(self.module)
        except UnknownLayer as unknown:
            logger.info("this VAE is not tiled: it has %s", unknown)
            return None
        return Network(found, self.device, self.dtype, pixels, before, after, self.requires_grad)


class DiffusersUNet(TorchPart):
    """NoisePredictor over a UNet2DConditionModel."""

    module: UNet2DConditionModel

    @property
    def bytes_per_latent(self) -> int:
        """Measured on a CPU: 21 elements per channel of the first level for two levels, 28 to 38 for SD 2.1's four."""
        return 40 * self.module.config["block_out_channels"][0] * self.dtype.itemsize

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None) -> Tensor:
        """Scaled latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) -> prediction (B, C, h, w).

        Raises OptionError without prompt_embeds.
        """
        if prompt_embeds is None:
            raise OptionError("This UNet needs the embeddings of a prompt; encode one, an empty one will do.")
        return self.module(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=prompt_embeds.to(self.device, self.dtype),
        ).sample


if TYPE_CHECKING:  # proved by pyright: these are what the ports ask for
    _: tuple[type[LatentCodec], type[NoisePredictor]] = DiffusersVAE, DiffusersUNet
