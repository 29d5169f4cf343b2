"""A network from image to image under ComfyUI's memory management: as its UPSCALE_MODEL, and behind the core's port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ...osediff_core.direct.network import Network
from ...osediff_core.geometry import crop_back, pad_to_multiple
from ...osediff_core.runtime.stage import weights_in_fp32

if TYPE_CHECKING:
    from ...osediff_core.ports import ImageRestorer


class NativeUpscaler:
    """What ComfyUI's Upscale Image (using Model) takes: `patcher`, `scale`, and a call on a tile of an image.

    restorer: the same behind the core's port, for tiles that are blended and colours of the whole image.
    """

    def __init__(self, network: Network) -> None:
        management = comfy.model_management
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network,
            load_device=management.get_torch_device(),
            offload_device=management.unet_offload_device(),
        )
        self.scale = network.scale
        self.restorer = NativeRestorer(network, self.patcher)

    def __call__(self, tile: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1], any size -> (B, 3, scale h, scale w), about [0, 1], with the tile's own colours."""
        lq = tile * 2 - 1
        padded, size = pad_to_multiple(lq, self.restorer.multiple)
        image = crop_back(self.restorer(padded), (size[0] * self.scale, size[1] * self.scale))
        return (self.restorer.finish(image, lq) + 1) / 2


class NativeRestorer:
    """ImageRestorer over the network, on the device that ComfyUI loads it on."""

    def __init__(self, network: Network, patcher: comfy.model_patcher.ModelPatcher) -> None:
        self._network, self._patcher = network, patcher
        self.scale, self.multiple = network.scale, network.multiple

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self._network.parameters()).dtype

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        with weights_in_fp32(self._network):
            yield

    def load(self) -> None:
        """Onto the device, making room for it."""
        comfy.model_management.load_models_gpu([self._patcher])

    def __call__(self, lq: Tensor) -> Tensor:
        """As the port ImageRestorer says."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self._network(lq.to(self._patcher.load_device, self.dtype)).float()

    def finish(self, image: Tensor, lq: Tensor) -> Tensor:
        """As the port ImageRestorer says."""
        return self._network.finish(image, lq.to(image.device))


if TYPE_CHECKING:  # proved by pyright: this is what the port asks for
    _: type[ImageRestorer] = NativeRestorer
