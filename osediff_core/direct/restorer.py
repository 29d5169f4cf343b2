"""A network from image to image as a generator's twin: pictures of any size, in tiles, in any precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..encode import check_rgb
from ..errors import OptionError
from ..geometry import crop_back, pad_to_multiple, resize
from ..ports import ImageRestorer, Progress
from ..runtime.stage import run_stage
from ..runtime.torch_part import TorchPart
from ..tiles.blend import blend, shrinking
from ..tiles.grid import Tile
from ..tiles.unet import WHOLE, UNetTiling
from ..tiles.vae import AUTO, VAETiling
from .network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACE = 8  # pixels of the result that tiles count as one, as if they were Stable Diffusion's latents; or about so many
_HELP = (
    "The upscale stage ran out of memory even in small tiles; close other programs, or use fp16, bf16 or another "
    "device."
)


class DirectRestorer(TorchPart):
    """Restores as `OneStepGenerator.restore` does, by a network alone."""

    module: Network

    def __init__(self, module: Network) -> None:
        super().__init__(module)
        self.method = module.method
        self.sliders: Mapping[str, float] = {}
        self.scale, self.multiple = module.scale, module.multiple

    def __call__(self, lq: Tensor) -> Tensor:
        """As the port ImageRestorer says."""
        return self.module(lq.to(self.device, self.dtype)).float()

    def finish(self, image: Tensor, lq: Tensor) -> Tensor:
        """As the port ImageRestorer says."""
        return self.module.finish(image, lq.to(image.device))

    def reads_whole(self, prompt: str) -> bool:
        """Never any of it. Raises OptionError for a prompt."""
        if prompt:
            raise OptionError(f"{self.method.title} reads no prompt; leave out --prompt, --dape and --ram.")
        return True

    @torch.inference_mode()
    def restore(
        self,
        lq: Tensor,
        prompt: str | list[str] = "",
        *,
        source: Tensor | None = None,
        unet_tiling: UNetTiling = WHOLE,
        vae_tiling: VAETiling = AUTO,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """As `OneStepGenerator.restore`, but from `source`, the image before it was enlarged to lq (B, 3, H, W).

        What it gives at its own scale is resized to lq's size. Prompts, the VAE's tiles and draws mean nothing to it.
        """
        for text in [prompt] if isinstance(prompt, str) else prompt:
            self.reads_whole(text)
        small = lq if source is None else source
        image = upscale(self, small, tiling=unet_tiling, progress=progress)
        return resize(image, (lq.shape[-1], lq.shape[-2])).clamp(-1, 1)


def upscale(
    restorer: ImageRestorer, lq: Tensor, *, tiling: UNetTiling = WHOLE, progress: Progress | None = None
) -> Tensor:
    """LQ image (B, 3, h, w) in [-1, 1], any size -> image (B, 3, scale h, scale w), fp32, in [-1, 1].

    Sides are padded by reflection to what the network takes. tiling: as of a UNet's latents, of which one is 8 pixels
    of the result; tiles overlap and are blended, so that they change it; smaller where memory is short. Raises
    ImageError, OptionError, OutOfMemory, NonFiniteError.
    """
    check_rgb(lq)
    scale = restorer.scale
    padded, size = pad_to_multiple(lq.contiguous(), restorer.multiple)
    place = max(1, _PLACE // scale)  # pixels of the LQ that tiles count as one
    in_places, _ = pad_to_multiple(padded, math.lcm(restorer.multiple, place))
    height, width = (side // place for side in in_places.shape[-2:])
    step = math.lcm(restorer.multiple, place) // place

    def compute(tiling: UNetTiling) -> Tensor:
        tiles = _in_steps(tiling, step).lay(height, width)
        if len(tiles) == 1:
            return run_stage("upscale", restorer, lambda: restorer(padded))
        larger = [Tile(*(side * place * scale for side in tile)) for tile in tiles]
        return run_stage("upscale", restorer, lambda: _blended(restorer, in_places, larger, progress))

    image = shrinking("upscale", _in_steps(tiling, step), (height, width), padded.device, compute, _HELP)
    image = crop_back(image, (size[0] * scale, size[1] * scale))
    return restorer.finish(image, lq).clamp(-1, 1)


def _in_steps(tiling: UNetTiling, step: int) -> UNetTiling:
    """Tiles whose sides are multiples of `step`, one at a time."""
    if tiling.tile is None:
        return tiling
    tile = max(step, tiling.tile // step * step)
    overlap = tile // 3 if tiling.overlap is None else min(tiling.overlap, tile - 1)
    return replace(tiling, tile=tile, overlap=overlap, batch=1)


def _blended(restorer: ImageRestorer, lq: Tensor, tiles: list[Tile], progress: Progress | None) -> Tensor:
    """The network's results in tiles, which are in pixels of the result."""

    def compute(group: Sequence[Tile]) -> list[Tensor]:
        cut = [Tile(*(side // restorer.scale for side in tile)) for tile in group]
        return [restorer(lq[(..., *tile.window)]) for tile in cut]

    shape = [*lq.shape[:2], *(side * restorer.scale for side in lq.shape[-2:])]
    return blend(shape, tiles, compute, centred=True, progress=progress)


if TYPE_CHECKING:  # proved by pyright: this is what the port asks for
    _: type[ImageRestorer] = DirectRestorer
