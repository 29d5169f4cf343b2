"""A network from image to image as a generator's twin: pictures of any size, in tiles, in any precision."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..encode import check_rgb
from ..errors import OptionError, OutOfMemory
from ..geometry import crop_back, pad_to_multiple, resize
from ..method import Method
from ..ports import ImageRestorer, Progress
from ..runtime.memory import explain_out_of_memory, release_memory
from ..runtime.stage import run_stage
from ..runtime.torch_part import TorchPart
from ..tiles.grid import Tile, gaussian_weights
from ..tiles.unet import WHOLE, UNetTiling
from ..tiles.vae import AUTO, VAETiling
from .adcsr import AdcSR

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_PLACE = 8  # pixels of the result that tiles count as one, as if they were Stable Diffusion's latents
_HELP = (
    "The upscale stage ran out of memory even in small tiles; close other programs, or use fp16, bf16 or another "
    "device."
)


class DirectRestorer(TorchPart):
    """Restores as `OneStepGenerator.restore` does, by a network alone. method: its facts."""

    module: AdcSR

    def __init__(self, module: AdcSR, method: Method) -> None:
        super().__init__(module)
        self.method = method
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
    padded, size = pad_to_multiple(lq.contiguous(), restorer.multiple)
    place = _PLACE // restorer.scale
    height, width = (side // place for side in padded.shape[-2:])
    tiling = _in_steps(tiling, restorer.multiple // place)
    while True:
        tiles = tiling.lay(height, width)
        try:
            image = run_stage(
                "upscale", restorer, lambda t=tiles: _blended(restorer, padded, t, place, progress)
            )
            break
        except OutOfMemory:
            if tiling.tile is None:
                raise
        release_memory(padded.device)
        smaller = tiling.smaller(height, width)
        if smaller is None:
            raise OutOfMemory(_HELP)
        tiling = _in_steps(smaller, restorer.multiple // place)
        logger.warning("upscale ran out of memory; trying again in tiles of %d", tiling.tile)
    image = crop_back(image, (size[0] * restorer.scale, size[1] * restorer.scale))
    return restorer.finish(image, lq).clamp(-1, 1)


def _in_steps(tiling: UNetTiling, step: int) -> UNetTiling:
    """Tiles whose sides are multiples of `step`, one at a time."""
    if tiling.tile is None:
        return tiling
    tile = max(step, tiling.tile // step * step)
    overlap = tile // 3 if tiling.overlap is None else min(tiling.overlap, tile - 1)
    return replace(tiling, tile=tile, overlap=overlap, batch=1)


def _blended(
    restorer: ImageRestorer, lq: Tensor, tiles: list[Tile], place: int, progress: Progress | None
) -> Tensor:
    """The network's result, whole or blended from tiles by Gaussian weights."""
    with explain_out_of_memory("upscale"):
        if len(tiles) == 1:
            return restorer(lq)
        weights = gaussian_weights(tiles[0].height * _PLACE, tiles[0].width * _PLACE, centred=True)
        total = torch.zeros([side * restorer.scale for side in lq.shape[-2:]], dtype=torch.float64)
        larger = [Tile(*(side * _PLACE for side in tile)) for tile in tiles]
        for tile in larger:
            total[tile.window] += weights
        image: Tensor | None = None
        for done, (tile, there) in enumerate(zip(tiles, larger, strict=True), 1):
            part = restorer(lq[(..., *Tile(*(side * place for side in tile)).window)])
            if image is None:
                image = part.new_zeros(*lq.shape[:2], *total.shape)
            image[(..., *there.window)] += part * (weights / total[there.window]).to(part)
            if progress is not None:
                progress(done, len(tiles))
        assert image is not None
        return image


if TYPE_CHECKING:  # proved by pyright: this is what the port asks for
    _: type[ImageRestorer] = DirectRestorer
