"""Tiles as data: where they lie and how they are blended. Pure functions, no network.

Units are those of the tensor that is tiled (latents for the UNet).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

GAUSSIAN_VARIANCE = 0.01  # official code: osediff.py, _gaussian_weights; in units of the squared tile size


class Tile(NamedTuple):
    """A rectangle: its upper left corner and its size."""

    y: int
    x: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The slices that cut the tile out of the last two dimensions."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def needs_tiles(height: int, width: int, tile: int) -> bool:
    """Whether an area is tiled at all: the official rule compares areas, so 64 x 128 is whole for tile 96."""
    return height * width > tile * tile


def official_grid(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """The official grid: square tiles of side min(tile, height, width), the last ones shifted inwards.

    Order as in the official code (osediff.py, OSEDiff_test.forward): columns outside, rows inside.
    One deviation: where a side is no longer than the overlap, the official loops never end; there the tiles
    take that side whole and `tile` along the other, so that the stride stays tile - overlap.
    Raises OptionError for a tile < 1, an overlap < 0 or an overlap >= tile.
    """
    check_tile(tile, overlap)
    side = min(tile, height, width)
    square = side > overlap
    tile_h = side if square else min(tile, height)
    tile_w = side if square else min(tile, width)
    return [
        Tile(y, x, tile_h, tile_w)
        for x in _offsets(width, tile_w, overlap)
        for y in _offsets(height, tile_h, overlap)
    ]


def balanced_grid(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """As few tiles as the official grid needs, but all as small as covers the area, and spread evenly.

    The official grid's last tiles are shifted inwards and do most of their work again: at 128 x 128 latents, tile 96
    and overlap 32 it computes 2.25 times the area, this one 1.56 times. No tile is larger than `tile` along a side, no
    overlap smaller than `overlap`; sides are multiples of 8 where that is possible, as a UNet halves them three times.
    Raises OptionError as `official_grid` does.
    """
    check_tile(tile, overlap)
    tile_h, rows = _balanced(height, tile, overlap)
    tile_w, columns = _balanced(width, tile, overlap)
    return [Tile(y, x, tile_h, tile_w) for x in columns for y in rows]


GRIDS: dict[str, Callable[[int, int, int, int], list[Tile]]] = {
    "balanced": balanced_grid,
    "official": official_grid,
}


def check_tile(tile: int, overlap: int) -> None:
    """Raise OptionError unless 0 <= overlap < tile."""
    if tile < 1:
        raise OptionError(
            f"A tile of {tile} latents is impossible; use 1 or more (96 is the official default)."
        )
    if not 0 <= overlap < tile:
        raise OptionError(
            f"An overlap of {overlap} latents does not suit tiles of {tile}; use 0 to {tile - 1}."
        )


def make_grid(name: str, height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """The tiles of the grid of that name. Raises OptionError for an unknown name or impossible sizes."""
    if name not in GRIDS:
        raise OptionError(f"Tile grid {name!r} is unknown; use {' or '.join(sorted(GRIDS))}.")
    return GRIDS[name](height, width, tile, overlap)


def lay_tiles(name: str, height: int, width: int, tile: int | None, overlap: int) -> list[Tile]:
    """Tiles of an area: those of the grid `name`, or one over everything where no tiling is needed.

    tile: None is no tiling. Raises OptionError for an unknown grid or impossible sizes, needed or not.
    """
    whole = [Tile(0, 0, height, width)]
    if tile is None:
        return whole
    check_tile(tile, overlap)
    grid = make_grid(name, height, width, tile, overlap)
    return grid if needs_tiles(height, width, tile) else whole


def gaussian_weights(height: int, width: int, centred: bool = False) -> Tensor:
    """The official blend weights (height, width), float64: a Gaussian of variance 0.01 squared tile sizes.

    x is centred on (width - 1) / 2 but y on height / 2. That half-pixel shift is the official code's
    (osediff.py, _gaussian_weights) and is kept, as the blended result depends on it. centred: without it, as PiSA-SR's.
    """
    import torch

    def bell(n: int, centre: float) -> Tensor:
        position = torch.arange(n, dtype=torch.float64)
        exponent = -((position - centre) ** 2) / (n * n) / (2 * GAUSSIAN_VARIANCE)
        return torch.exp(exponent) / math.sqrt(2 * math.pi * GAUSSIAN_VARIANCE)

    return torch.outer(
        bell(height, (height - 1) / 2 if centred else height / 2), bell(width, (width - 1) / 2)
    )


def _offsets(length: int, tile: int, overlap: int) -> list[int]:
    """The starts of tiles along an axis: every tile - overlap, the last shifted inwards to end with it."""
    if length <= tile:
        return [0]
    stride = tile - overlap
    count = math.ceil((length - tile) / stride) + 1
    return [min(i * stride, length - tile) for i in range(count)]


def _balanced(length: int, tile: int, overlap: int) -> tuple[int, list[int]]:
    """(side, where tiles begin) along an axis."""
    if length <= tile:
        return length, [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    side = math.ceil((length + (count - 1) * overlap) / count)
    side = min(-(-side // 8) * 8, tile)
    return side, [round(i * (length - side) / (count - 1)) for i in range(count)]
