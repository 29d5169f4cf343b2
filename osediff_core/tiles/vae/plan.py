"""Plan of a walk over a network: sweeps over the image, their sizes, tiles, memory and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...layers import Attention, Convolution, Head, Network, Norm, Resnet, Span

MIB = 2**20
# A convolution holds its window as read, normalised, in the library's own layout, and its result twice.
_COPIES = 3
_PAIRS_AT_ONCE = 2**37  # query, key, channel: some seconds on a CPU
_BANDS_AT_ONCE = 5  # one that is filled, and up to two of each map that is read, where these are fetched


@dataclass(frozen=True)
class Sweep:
    """One pass over the image between two group norms: conv(silu(norm(x))), stored tile by tile.

    norm: None convolves x as it is. shortcut: is applied to x as well, and its result is the skip that a later sweep
    adds. keeps: x itself is that skip. adds: the skip is added to the result.
    height, width: of the result. pixels: image pixels per element of it. tile: (rows, columns) of the result.
    """

    conv: Convolution
    norm: Norm | None = None
    shortcut: Convolution | None = None
    keeps: bool = False
    adds: bool = False
    height: int = 0
    width: int = 0
    pixels: int = 1
    tile: tuple[int, int] = (0, 0)

    @property
    def tiles(self) -> int:
        """The number of tiles to compute."""
        return math.ceil(self.height / self.tile[0]) * math.ceil(self.width / self.tile[1])

    @property
    def out_channels(self) -> int:
        """Of the result, without the shortcut's."""
        return self.conv.out_channels

    @property
    def channels(self) -> tuple[int, int]:
        """Of all that goes in and of all that comes out."""
        aside = self.shortcut.out_channels if self.shortcut else 0
        return self.conv.in_channels, self.conv.out_channels + aside


@dataclass(frozen=True)
class AttentionSweep:
    """Attention over all places: keys and values of all tiles first, then the tiles one by one."""

    layer: Attention
    height: int
    width: int
    pixels: int
    tile: tuple[int, int] = (0, 0)

    @property
    def norm(self) -> Norm:
        """The one before it."""
        return self.layer.norm

    @property
    def tiles(self) -> int:
        """The number of tiles to compute: keys and values, then the rest."""
        return 2 * math.ceil(self.height / self.tile[0]) * math.ceil(self.width / self.tile[1])

    @property
    def out_channels(self) -> int:
        """Of the result."""
        return self.layer.channels

    @property
    def channels(self) -> tuple[int, int]:
        """Of all that goes in and of all that comes out: queries, keys and values are computed on the way."""
        return self.layer.channels, self.layer.channels + 3 * self.layer.inner


@dataclass(frozen=True)
class Budget:
    """Bytes for one walk: `work` for what is computed at the moment, `features` for what waits in memory.

    tile: the tiles' side in image pixels; None takes what `work` allows.
    """

    work: int
    features: int
    tile: int | None = None

    @classmethod
    def of(cls, total: int, device_type: str, tile: int | None = None) -> Budget:
        """Splits a total: a third for work, but no more than tiles gain by."""
        most = 512 * MIB if device_type == "cpu" else 4096 * MIB
        work = max(1, min(total // 3, most))
        return cls(work, max(0, total - work), tile)


def make_plan(
    network: Network, height: int, width: int, budget: Budget, itemsize: int
) -> list[Sweep | AttentionSweep]:
    """The sweeps for an input of (height, width), with their tiles."""
    plan: list[Sweep | AttentionSweep] = []
    pixels = network.pixels
    for layer in network.layers:
        for sweep in _sweeps(layer, height, width, pixels):
            if isinstance(sweep, Sweep):
                change = sweep.conv.change
                height, width = sweep.conv.size(height), sweep.conv.size(width)
                pixels = {"same": pixels, "half": pixels * 2, "double": pixels // 2}[change]
                sweep = replace(sweep, height=height, width=width, pixels=pixels)
            plan.append(replace(sweep, tile=_tile(sweep, budget, itemsize)))
    return plan


def tiles(height: int, width: int, tile: tuple[int, int]) -> Iterator[tuple[Span, list[Span]]]:
    """Rows from the top down, each with its columns; equal sizes as far as possible."""
    columns = list(_cut(width, tile[1]))
    for rows in _cut(height, tile[0]):
        yield rows, columns


def most_features(plan: list[Sweep | AttentionSweep], itemsize: int) -> int:
    """Bytes of the feature maps that wait at the worst moment; while one map grows, the one it is made of shrinks."""
    worst = before = skip = 0
    for sweep in plan[:-1]:
        size = sweep.height * sweep.width * itemsize
        if isinstance(sweep, Sweep):
            if sweep.shortcut is not None:
                skip = sweep.shortcut.out_channels * size
            elif sweep.keeps:
                skip = before
            elif sweep.adds:
                skip = 0
        before = sweep.out_channels * size
        worst = max(worst, before + skip)
    return worst


def attention_bytes(plan: list[Sweep | AttentionSweep], itemsize: int, pooled: int = 1) -> int:
    """Of the keys and values that attention keeps on the device, averaged over squares of side `pooled`."""
    most = 0
    for sweep in plan:
        if isinstance(sweep, AttentionSweep):
            squares = math.ceil(sweep.height / pooled) * math.ceil(sweep.width / pooled)
            most = max(most, 2 * squares * sweep.layer.inner * (itemsize if pooled == 1 else 4))
    return most


def multiplications(plan: list[Sweep | AttentionSweep]) -> tuple[int, int]:
    """Of the convolutions and of exact attention's queries with keys and weights with values."""
    convolutions = attention = 0
    for sweep in plan:
        places = sweep.height * sweep.width
        if isinstance(sweep, AttentionSweep):
            attention += 2 * places**2 * sweep.layer.inner
        else:
            for conv in filter(None, (sweep.conv, sweep.shortcut)):
                kernel = (2 * conv.reach + 1) ** 2
                convolutions += places * kernel * conv.in_channels * conv.out_channels
    return convolutions, attention


def untiled_plan(network: Network, height: int, width: int) -> list[Sweep | AttentionSweep]:
    """The sweeps for an input of (height, width) with their sizes; the tiles in it mean nothing."""
    return make_plan(network, height, width, Budget(1, 0), network.dtype.itemsize)


def untiled_bytes(plan: list[Sweep | AttentionSweep], itemsize: int) -> int:
    """About what the network itself holds at its worst moment of a plan, besides its weights.

    That is a convolution's input, normalised and activated, both in the library's own layout, the skip and the result.
    """
    worst = 0
    for sweep in plan:
        inward, outward = sweep.channels
        worst = max(worst, (3 * inward + 2 * outward) * sweep.height * sweep.width * itemsize)
    return worst


def _sweeps(layer: object, height: int, width: int, pixels: int) -> list[Sweep | AttentionSweep]:
    if isinstance(layer, Convolution):
        return [Sweep(layer)]
    if isinstance(layer, Head):
        return [Sweep(layer.conv, layer.norm)]
    if isinstance(layer, Attention):
        return [] if layer.idle() else [AttentionSweep(layer, height, width, pixels)]
    assert isinstance(layer, Resnet)
    return [
        Sweep(layer.conv1, layer.norm1, layer.shortcut, keeps=layer.shortcut is None),
        Sweep(layer.conv2, layer.norm2, adds=True),
    ]


def _tile(sweep: Sweep | AttentionSweep, budget: Budget, itemsize: int) -> tuple[int, int]:
    """(rows, columns) of a tile of the result."""
    if budget.tile is not None:
        side = max(1, budget.tile // sweep.pixels)
        rows, columns = min(side, sweep.height), min(side, sweep.width)
    else:
        inward, outward = sweep.channels
        read = inward * (4 if isinstance(sweep, Sweep) and sweep.conv.change == "half" else 1)
        of_band = budget.work // 2 // _BANDS_AT_ONCE
        rows = max(1, min(sweep.height, of_band // (max(inward, outward) * sweep.width * itemsize)))
        elements = budget.work // 2 // (_COPIES * (read + outward) * itemsize)
        columns = max(1, min(sweep.width, elements // rows))
    if isinstance(sweep, AttentionSweep):  # every place looks at all others: a tile must not take minutes
        queries = max(1, _PAIRS_AT_ONCE // (sweep.height * sweep.width * sweep.layer.inner))
        columns = min(columns, queries)
        rows = max(1, min(rows, queries // columns))
    return rows, columns


def _cut(length: int, side: int) -> Iterator[Span]:
    """As few spans as a side allows, all as long as each other give or take one."""
    count = math.ceil(length / side)
    for i in range(count):
        yield Span(i * length // count, (i + 1) * length // count)
