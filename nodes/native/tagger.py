"""The tagger under ComfyUI's memory management: its weights come and go, or are streamed, as those of a MODEL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ...osediff_core.dape import Tagger, TaggerNetwork, read_tagger
from ..conversions import split_image
from ..progress import each_frame

_OPS = comfy.ops.manual_cast
_LAYERS = {
    nn.Linear: _OPS.Linear,
    nn.Conv2d: _OPS.Conv2d,
    nn.LayerNorm: _OPS.LayerNorm,
    nn.Embedding: _OPS.Embedding,
}
# What the network holds at once for one picture, in values per patch of its first stage and channel (measured).
_ACTIVATIONS = 36


class NativeTagger:
    """The value of a tagger socket. It owns the patcher, and nothing else holds the network."""

    def __init__(self, network: TaggerNetwork, dtype: torch.dtype) -> None:
        management = comfy.model_management
        device = management.text_encoder_device()
        self._config = network.config
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            with_comfy_layers(network),
            load_device=device,
            offload_device=management.text_encoder_offload_device(),
        )
        # where the device cannot compute in the weights' dtype, its layers cast them one at a time
        self.compute = management.unet_manual_cast(dtype, device) or dtype

    def tag(self, image: Tensor, exclude: list[str], threshold_offset: float) -> list[list[str]]:
        """IMAGE (B, H, W, C) -> the tags of each picture, in the order of RAM's list."""
        rgb, alpha = split_image(image)
        planes = (rgb if alpha is None else torch.cat([rgb, alpha], dim=1)) * 2 - 1
        comfy.model_management.load_models_gpu([self.patcher], memory_required=self._memory_required())
        tagger = _Resident(self.patcher, self.compute)
        found = []
        for frame in each_frame("DAPE Prompt", planes.shape[0]):
            (tags,) = tagger.tag(
                planes[frame : frame + 1], threshold_offset=threshold_offset, exclude=exclude
            )
            found.append([tag.name for tag in tags])
        return found

    def _memory_required(self) -> int:
        patches = (self._config.image_size // self._config.patch_size) ** 2
        return patches * self._config.swin_width * _ACTIVATIONS * self.compute.itemsize


class _Resident(Tagger):
    """The core's tagger while its weights are ComfyUI's to place: it computes on the patcher's device, in `compute`."""

    def __init__(self, patcher: comfy.model_patcher.ModelPatcher, compute: torch.dtype) -> None:
        super().__init__(patcher.model)
        self._device, self._compute = patcher.load_device, compute
        self._place_small_tensors()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self._compute

    @property
    def device(self) -> torch.device:
        """The device it computes on."""
        return self._device

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        kept, self._compute = self._compute, torch.float32
        self._place_small_tensors()
        try:
            yield
        finally:
            self._compute = kept
            self._place_small_tensors()

    def _place_small_tensors(self) -> None:
        """Swin's tables of relative positions, a thousandth of the weights, lie outside of layers that can stream."""
        for module in self.module.modules():
            if hasattr(module, "comfy_cast_weights"):
                continue
            for name, parameter in list(module.named_parameters(recurse=False)):
                if (parameter.device, parameter.dtype) != (self._device, self._compute):
                    placed = nn.Parameter(parameter.to(self._device, self._compute), requires_grad=False)
                    setattr(module, name, placed)
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, buffer.to(self._device))


def load_tagger(path: Path, dape: Path | bool, dtype: torch.dtype | None) -> NativeTagger:
    """A tagger for the graph; see `read_tagger` for path and dape. dtype: of the weights; None leaves it to ComfyUI.

    Raises CheckpointError.
    """
    dtype = dtype or _preferred_dtype()
    return NativeTagger(read_tagger(path, dape, dtype=dtype).network(), dtype)


def _preferred_dtype() -> torch.dtype:
    """As ComfyUI keeps text encoders, but for fp8, which it cannot compute in."""
    management = comfy.model_management
    dtype = management.text_encoder_dtype(management.text_encoder_device())
    return dtype if dtype.itemsize > 1 else torch.float16


def with_comfy_layers(network: nn.Module) -> nn.Module:
    """The network itself, its layers now ComfyUI's, which compute the same and can stream their weights."""
    for module in network.modules():
        kind = _LAYERS.get(type(module))
        if kind is None:
            continue
        module.__class__ = kind
        layer = cast("comfy.ops.CastWeightBiasOp", module)
        layer.weight_function, layer.bias_function = [], []
        if not hasattr(module, "bias"):
            module.register_parameter("bias", None)  # ComfyUI looks for one in every layer
    return network
