"""Overlapping tiles put together: blended by Gaussian weights, and smaller ones where memory ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import OutOfMemory
from ..ports import Progress
from ..runtime.memory import release_memory
from .grid import Tile, gaussian_weights

if TYPE_CHECKING:
    from .unet import UNetTiling

logger = logging.getLogger(__name__)


def blend(
    shape: Sequence[int],
    tiles: Sequence[Tile],
    compute: Callable[[Sequence[Tile]], Sequence[Tensor]],
    *,
    batch: int = 1,
    centred: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """A whole (…, H, W) of `shape`, fp32, of what `compute` makes of its tiles, on the device that its parts are on.

    tiles: equally large and together covering the whole; compute gets up to `batch` of them and returns a part
    (…, tile_h, tile_w) for each. centred: as in `gaussian_weights`. progress(done, total) is called after each batch;
    it may raise to stop the work.
    """
    # The weights fall to 1e-11 at a tile's corners, so they are normalised in float64 before they meet the
    # parts; what is then summed lies in [0, 1]. Not every device has float64.
    weights = gaussian_weights(tiles[0].height, tiles[0].width, centred)
    total = torch.zeros(*shape[-2:], dtype=torch.float64)
    for tile in tiles:
        total[tile.window] += weights
    blended: Tensor | None = None
    for start in range(0, len(tiles), batch):
        group = tiles[start : start + batch]
        for tile, part in zip(group, compute(group), strict=True):
            if blended is None:
                blended = torch.zeros(*shape, dtype=torch.float32, device=part.device)
            share = (weights / total[tile.window]).to(torch.float32).to(part.device)
            blended[(..., *tile.window)] += part.float() * share
        if progress is not None:
            progress(start + len(group), len(tiles))
    assert blended is not None
    return blended


def shrinking(
    stage: str,
    tiling: UNetTiling,
    size: tuple[int, int],
    device: torch.device,
    compute: Callable[[UNetTiling], Tensor],
    remedy: str,
) -> Tensor:
    """What `compute` makes with `tiling`, or with smaller tiles where memory does not suffice for these.

    size: (height, width) of what is tiled. remedy: the sentence, of {tile} latents, where not even small ones fit.
    Raises OutOfMemory, also where there are no tiles to make smaller.
    """
    while True:
        try:
            return compute(tiling)
        except OutOfMemory:
            if tiling.tile is None:
                raise
        # Outside of the handler, as the error's traceback holds the tensors that were too large.
        release_memory(device)
        smaller = tiling.smaller(*size)
        if smaller is None:
            raise OutOfMemory(remedy.format(tile=tiling.tile))
        logger.warning("%s ran out of memory; trying again in tiles of %d latents", stage, smaller.tile)
        tiling = smaller
