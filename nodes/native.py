"""ComfyUI's MODEL and VAE behind the ports of osediff_core, so that the algorithm is the core's own.

ComfyUI keeps its part: residency on the device, low memory modes, attention, patches, interruption.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer, EmptyRegularizer
from torch import Tensor, nn

from ..osediff_core.generator import OneStepGenerator
from ..osediff_core.schedule import NoiseSchedule

_NO_SPREAD = -30.0  # logvar of a VAE that has no posterior: the floor that Stable Diffusion's is clamped to
_TOP_SPREAD = 20.0


class NativeVAE:
    """LatentCodec over a VAE of ComfyUI.

    tile: pixels; areas above tile * tile go through ComfyUI's own tiles, whose seams are blended but whose
    statistics are not those of the whole image. 0: whole, and ComfyUI tiles by itself if memory runs out.
    """

    scaling_factor = 1.0  # a LATENT is unscaled; the MODEL scales it

    def __init__(self, vae: comfy.sd.VAE, tile: int = 0) -> None:
        self._vae = copy.copy(vae)  # the dtype may change for a moment; the graph's own object must not
        self._tile = tile
        self.downscale = int(vae.spacial_compression_encode())
        self.latent_channels = int(vae.latent_channels)

    @property
    def dtype(self) -> torch.dtype:
        """What the VAE computes in."""
        return self._vae.vae_dtype

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        kept = self._vae.vae_dtype
        with _casting_layers(self._vae.first_stage_model):
            self._vae.vae_dtype = torch.float32
            try:
                yield
            finally:
                self._vae.vae_dtype = kept

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W) in [-1, 1] -> mean, logvar (B, C, H/f, W/f); logvar is -30 without a posterior."""
        pixels = ((image + 1) / 2).movedim(1, -1)
        with _moments(self._vae) as vae:
            if self._needs_tiles(*image.shape[-2:]):
                encoded = vae.encode_tiled(
                    pixels, tile_x=self._tile, tile_y=self._tile, overlap=self._tile // 8
                )
            else:
                encoded = vae.encode(pixels)
        if encoded.shape[1] == self.latent_channels:
            return encoded, torch.full_like(encoded, _NO_SPREAD)
        mean, logvar = encoded.chunk(2, dim=1)
        return mean, logvar.clamp(_NO_SPREAD, _TOP_SPREAD)

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (B, C, h, w) -> image (B, 3, f h, f w), clamped to [-1, 1] by ComfyUI."""
        side = max(1, self._tile // self.downscale)
        if self._needs_tiles(*(n * self.downscale for n in latents.shape[-2:])):
            pixels = self._vae.decode_tiled(latents, tile_x=side, tile_y=side, overlap=side // 4)
        else:
            pixels = self._vae.decode(latents)
        return pixels.movedim(-1, 1) * 2 - 1

    def _needs_tiles(self, height: int, width: int) -> bool:
        return 0 < self._tile * self._tile < height * width


class NativeUNet:
    """NoisePredictor over the guider that ComfyUI hands to a sampler; the conditioning is the guider's.

    It predicts x0, as everything behind ComfyUI's MODEL does: `native_schedule` says so. (Tiles of x0 and tiles
    of the noise blend to the same result, as both are affine in each other with the latents in common.)
    """

    def __init__(
        self, guider: Callable[..., Tensor], model: comfy.model_base.BaseModel, extra_args: dict[str, Any]
    ) -> None:
        self._guider = guider
        self._model = model
        self._extra_args = extra_args

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self._model.get_dtype_inference()

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        kept = self._model.manual_cast_dtype
        with _casting_layers(self._model.diffusion_model):
            self._model.manual_cast_dtype = torch.float32
            try:
                yield
            finally:
                self._model.manual_cast_dtype = kept

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        """Scaled latents z (B, C, h, w), timesteps (B,) -> x0 (B, C, h, w).

        ComfyUI's x is z / alpha: its MODEL multiplies by alpha = 1 / sqrt(sigma^2 + 1) before the UNet.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigmas = self._model.model_sampling.sigmas.to(latents.device)[timesteps]
        x = latents * (1 + sigmas.view(-1, 1, 1, 1) ** 2).sqrt()
        return self._guider(x, sigmas, **self._extra_args)


def codec_generator(vae: comfy.sd.VAE, tile: int) -> OneStepGenerator:
    """The core's generator with a VAE alone: its verbs are encode and decode, which ask nothing of a schedule."""
    return OneStepGenerator(NativeVAE(vae, tile), None, None, NoiseSchedule(torch.ones(1)))


def native_schedule(model_sampling: nn.Module) -> NoiseSchedule:
    """The schedule of a MODEL's `model_sampling`, whose sigma is sqrt((1 - abar) / abar)."""
    sigmas = model_sampling.sigmas.float().cpu()
    return NoiseSchedule(1 / (1 + sigmas**2), prediction_type="sample")


@contextmanager
def _moments(vae: comfy.sd.VAE) -> Iterator[comfy.sd.VAE]:
    """Inside this context `encode` of the VAE yielded gives mean and logvar in one tensor, if there are both."""
    model = vae.first_stage_model
    kept = getattr(model, "regularization", None)
    if not isinstance(kept, DiagonalGaussianRegularizer):
        yield vae
        return
    both = copy.copy(vae)
    both.latent_channels = 2 * vae.latent_channels
    model.regularization = EmptyRegularizer()
    try:
        yield both
    finally:
        model.regularization = kept


@contextmanager
def _casting_layers(module: nn.Module) -> Iterator[None]:
    """Inside this context ComfyUI's layers cast their weights to the dtype of their input, one at a time."""
    layers = [m for m in module.modules() if getattr(m, "comfy_cast_weights", True) is False]
    for layer in layers:
        layer.comfy_cast_weights = True
    try:
        yield
    finally:
        for layer in layers:
            layer.comfy_cast_weights = False
