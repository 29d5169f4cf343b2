"""Overlapping, blended tiles for a noise predictor: bounded memory for latents of any size."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ports import NoisePredictor, PlacedPredictor, Progress
from ..runtime.gradients import needs_gradients
from ..runtime.memory import explain_out_of_memory, free_memory
from .blend import blend, shrinking
from .grid import Tile, lay_tiles

logger = logging.getLogger(__name__)

LEAST_TILE = 32  # latents; a UNet trained on 64 x 64 makes little of less
_SHARE = 0.8  # of the free memory; the rest is for what is not counted
_HELP = (
    "The denoise stage ran out of memory even in tiles of {tile} latents; close other programs, use fp16 or bf16, or "
    "another device."
)


def tiles_at_once(device: torch.device) -> int:
    """The number of tiles that go through the UNet together: on a CPU more than one gains nothing and costs memory."""
    return 1 if device.type == "cpu" else 4


@dataclass(frozen=True)
class UNetTiling:
    """Tiles of the UNet.

    tile: the tiles' side in latents, at most: it is made smaller where memory is short. Areas up to tile * tile go
    whole. None: always whole. overlap: None is a third of the tile. grid: a name in `tiling.GRIDS`.
    batch: tiles at once; None: as many as suit the device. centred: as in `gaussian_weights`.
    """

    tile: int | None = None
    overlap: int | None = None
    grid: str = "official"
    batch: int | None = None
    centred: bool = False

    def lay(self, height: int, width: int) -> list[Tile]:
        """The tiles of an area. Raises OptionError for impossible sizes or an unknown grid."""
        overlap = (self.tile or 0) // 3 if self.overlap is None else self.overlap
        return lay_tiles(self.grid, height, width, self.tile, overlap)

    def smaller(self, height: int, width: int) -> UNetTiling | None:
        """One tile at once if it was several, else tiles of at most half the area.

        None if that takes tiles below LEAST_TILE, or if the area must go whole.
        """
        if self.tile is None:
            return None
        tiles = self.lay(height, width)
        if len(tiles) > 1 and self.batch != 1:
            return replace(self, batch=1)
        most = tiles[0].height * tiles[0].width // 2
        # the root, as a larger tile leaves an elongated area whole
        largest = min(self.tile, math.isqrt(height * width))
        for side in range(largest // 8 * 8, LEAST_TILE - 1, -8):
            overlap = None if self.overlap is None else self.overlap * side // self.tile
            found = replace(self, tile=side, overlap=overlap)
            first = found.lay(height, width)[0]
            if first.height * first.width <= most:
                return found
        return None


WHOLE = UNetTiling()


def predict(
    unet: NoisePredictor,
    latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor | None,
    tiling: UNetTiling,
    progress: Progress | None = None,
) -> Tensor:
    """The prediction for latents (B, C, h, w), whole or blended from tiles, fp32; smaller tiles where memory is short.

    Other arguments as in `predict_tiled`. With gradients the tiles are as asked for, as what is short then is the
    memory for the graph. The result is on the network's device.
    Raises OptionError for impossible tiles, OutOfMemory if not even small ones fit.
    """
    size = latents.shape[-2:]
    device = unet.device or latents.device
    tiling = replace(tiling, batch=tiling.batch or tiles_at_once(device))
    with_gradients = needs_gradients(unet, latents, prompt_embeds)
    if not with_gradients:
        tiling = _within_memory(unet, latents.shape, device, tiling)

    def compute(tiling: UNetTiling) -> Tensor:
        tiles, batch, centred = tiling.lay(*size), tiling.batch or 1, tiling.centred
        with explain_out_of_memory("denoise"):
            if len(tiles) == 1:
                return unet(latents, timesteps, prompt_embeds).float()
            return predict_tiled(unet, latents, timesteps, prompt_embeds, tiles, batch, progress, centred)

    if with_gradients:
        return compute(tiling)
    return shrinking("denoise", tiling, (size[0], size[1]), device, compute, _HELP)


def _within_memory(
    unet: NoisePredictor, shape: torch.Size, device: torch.device, tiling: UNetTiling
) -> UNetTiling:
    """Tiles that are expected to fit; on a CPU there may be no second try, as the system ends the process."""
    if tiling.tile is None or unet.bytes_per_latent is None:
        return tiling
    batch, _, *size = shape
    free = free_memory(device) * _SHARE
    chosen = tiling
    while True:
        tiles = chosen.lay(*size)
        at_once = min(len(tiles), chosen.batch or 1)
        needed = unet.bytes_per_latent * batch * at_once * tiles[0].height * tiles[0].width
        smaller = chosen.smaller(*size) if needed > free else None
        if smaller is None:
            break
        chosen = smaller
    if chosen.tile != tiling.tile:
        logger.warning("memory is short: tiles of %d latents instead of %d", chosen.tile, tiling.tile)
    return chosen


def predict_tiled(
    unet: NoisePredictor,
    latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor | None,
    tiles: Sequence[Tile],
    batch: int = 1,
    progress: Progress | None = None,
    centred: bool = False,
) -> Tensor:
    """The prediction for whole latents, blended from tiles with the official Gaussian weights.

    latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) or None -> fp32 (B, C, h, w), on the device that the
    network answers on.
    tiles: equally large and together covering the latents. batch: how many tiles go through the UNet at once
    (more is faster on an accelerator and takes more memory).
    progress(done, total) is called after each batch; it may raise to stop the work. centred: as in `gaussian_weights`.
    With a single tile over everything the result is that of the UNet itself.
    """
    n = latents.shape[0]

    def compute(group: Sequence[Tile]) -> Sequence[Tensor]:
        cut = torch.cat([latents[(..., *tile.window)] for tile in group])  # (k B, C, tile_h, tile_w)
        embeds = None if prompt_embeds is None else prompt_embeds.repeat(len(group), 1, 1)
        placed = unet.on(group) if isinstance(unet, PlacedPredictor) else unet
        return placed(cut, timesteps.repeat(len(group)), embeds).float().split(n)

    return blend(latents.shape, tiles, compute, batch=batch, centred=centred, progress=progress)
