"""ComfyUI's MODEL behind the port of osediff_core, so that the algorithm is the core's own.

ComfyUI keeps its part: residency on the device, low memory modes, attention, patches, interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import comfy.model_base
import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...osediff_core.schedule import NoiseSchedule
from ...osediff_core.tiles.grid import Tile

if TYPE_CHECKING:
    from ...osediff_core.ports import NoisePredictor, PlacedPredictor


class NativeUNet:
    """NoisePredictor over the guider that ComfyUI hands to a sampler; the conditioning is the guider's.

    predicts: "sample", x0, as everything behind ComfyUI's MODEL does, or "residual", the output of the UNet itself, for
    weights of that rule on a base that predicts the noise. (Tiles of x0 and tiles of the output blend to the same
    result, as both are affine in each other with the latents in common.)
    on_tile: where the conditioning is not the same everywhere, what makes it a tile's (`regions.follow_tiles`).
    paint(tile, latents, prediction): told of each tile that is done, for previews.
    """

    bytes_per_latent = None  # ComfyUI makes room before a step
    device = None  # a sampler hands over latents that are on the MODEL's device

    def __init__(
        self,
        guider: Callable[..., Tensor],
        model: comfy.model_base.BaseModel,
        extra_args: dict[str, Any],
        predicts: str,
        on_tile: Callable[[Tile], AbstractContextManager[None]] | None = None,
        paint: Callable[[Tile, Tensor, Tensor], None] | None = None,
    ) -> None:
        self._guider = guider
        self._model = model
        self._extra_args = extra_args
        self._predicts = predicts
        self._on_tile, self._paint = on_tile, paint

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the UNet computes in."""
        return self._model.get_dtype_inference()

    def requires_grad(self) -> bool:
        """Whether any of the weights is trained."""
        return any(parameter.requires_grad for parameter in self._model.diffusion_model.parameters())

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        kept = self._model.manual_cast_dtype
        with casting_layers(self._model.diffusion_model):
            self._model.manual_cast_dtype = torch.float32
            try:
                yield
            finally:
                self._model.manual_cast_dtype = kept

    def __call__(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        """Scaled latents z (B, C, h, w), timesteps (B,) -> x0, or the UNet's output (B, C, h, w).

        ComfyUI's x is z / alpha: its MODEL multiplies by alpha = 1 / sqrt(sigma^2 + 1) before the UNet, and gives
        x0 = x - sigma output.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigmas = self._model.model_sampling.get_buffer("sigmas").to(latents.device)[timesteps]
        sigma = sigmas.view(-1, 1, 1, 1)
        x = latents * (1 + sigma**2).sqrt()
        x0 = self._guider(x, sigmas, **self._extra_args)
        return (x - x0) / sigma if self._predicts == "residual" else x0

    def on(self, tiles: Sequence[Tile]) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """As the port PlacedPredictor says; tiles of different conditioning go through the UNet one at a time."""

        def predict(latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor | None) -> Tensor:
            cut = latents.chunk(len(tiles))
            if self._on_tile is None:
                predicted = self(latents, timesteps, prompt_embeds)
            else:
                one_by_one = []
                for tile, part, at in zip(tiles, cut, timesteps.chunk(len(tiles)), strict=True):
                    with self._on_tile(tile):
                        one_by_one.append(self(part, at, prompt_embeds))
                predicted = torch.cat(one_by_one)
            if self._paint is not None:
                for tile, part, found in zip(tiles, cut, predicted.chunk(len(tiles)), strict=True):
                    self._paint(tile, part, found)
            return predicted

        return predict


def native_schedule(model_sampling: nn.Module, predicts: str) -> NoiseSchedule:
    """The schedule of a MODEL's `model_sampling`, whose sigma is sqrt((1 - abar) / abar); predicts: as NativeUNet."""
    sigmas = model_sampling.get_buffer("sigmas").float().cpu()
    return NoiseSchedule(1 / (1 + sigmas**2), prediction_type=predicts)


@contextmanager
def casting_layers(module: nn.Module) -> Iterator[None]:
    """Inside this context ComfyUI's layers cast their weights to the dtype of their input, one at a time."""
    layers = [
        cast("comfy.ops.CastWeightBiasOp", layer)
        for layer in module.modules()
        if getattr(layer, "comfy_cast_weights", True) is False
    ]
    for layer in layers:
        layer.comfy_cast_weights = True
    try:
        yield
    finally:
        for layer in layers:
            layer.comfy_cast_weights = False


if TYPE_CHECKING:  # proved by pyright: this is what the port asks for
    _: type[NoisePredictor] = NativeUNet
    _placed: type[PlacedPredictor] = NativeUNet
