"""Walk over an image by a plan: sweep after sweep over the image, tile after tile, with statistics of the whole image.

Every sweep ends before a group norm: while its tiles are stored, their statistics are collected, and when all are
there, the next sweep can normalise what it reads. Nothing is computed twice but the one pixel around a tile that a 3x3
convolution reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import Network, Span
from .attention import Places, attend
from .features import FeatureMap, FeatureStore, WholeTensor
from .plan import AttentionSweep, Sweep, tiles
from .statistics import Moments

Map = FeatureMap | WholeTensor
Affine = tuple[Tensor, Tensor]


class Walk:
    """One image through one network.

    step(sweep) is called after each tile; it may raise to stop the work.
    pooled: the side of the squares over which attention averages its keys and values; 1 is exact.
    """

    def __init__(
        self,
        network: Network,
        plan: list[Sweep | AttentionSweep],
        store: FeatureStore,
        step: Callable[[Sweep | AttentionSweep], None],
        pooled: int = 1,
    ) -> None:
        self.network, self.plan, self.store, self.step, self.pooled = network, plan, store, step, pooled

    def run(self, source: Tensor, result: Tensor) -> None:
        """source (1, C, h, w), on any device -> result (1, C', h', w'), which is filled, in its own dtype."""
        x: Map = WholeTensor(source, self.network.device, self.network.dtype)
        skip: Map | None = None
        affine: Affine | None = None
        for sweep, following in zip(self.plan, [*self.plan[1:], None], strict=True):
            if following is None:
                out: Map = WholeTensor(result, result.device, result.dtype)
            else:
                out = self._map(sweep.out_channels, sweep)
            norm = None if following is None else following.norm
            moments = None if norm is None else Moments()
            if isinstance(sweep, AttentionSweep):
                self._attend(sweep, x, out, affine, moments)
            else:
                skip = self._convolve(sweep, x, out, skip, affine, moments)
            affine = None
            if moments is not None and norm is not None:
                affine = moments.affine(norm, self.network.device)
            x = out

    def _convolve(
        self,
        sweep: Sweep,
        x: Map,
        out: Map,
        skip: Map | None,
        affine: Affine | None,
        moments: Moments | None,
    ) -> Map | None:
        """x -> out; the skip that is there from now on."""
        conv, shortcut = sweep.conv, sweep.shortcut
        added = skip if sweep.adds else None
        aside = None if shortcut is None else self._map(shortcut.out_channels, sweep)
        for rows, columns in tiles(sweep.height, sweep.width, sweep.tile):
            band = out.new_band(rows)
            aside_band = None if aside is None else aside.new_band(rows)
            read_rows, top = conv.reads(rows, x.height)
            for cols in columns:
                read_cols, left = conv.reads(cols, x.width)
                place = (..., slice(*cols))
                computed = conv.apply(self._window(x, read_rows, read_cols, affine, F.silu))
                computed = computed[..., top : top + rows.length, left : left + cols.length]
                if added is not None:
                    computed = computed + self._window(added, rows, cols)
                band[place] = computed
                if moments is not None:
                    moments.add(band[place])
                if shortcut is not None and aside_band is not None:
                    aside_band[place] = shortcut.apply(self._window(x, rows, cols))
                self.step(sweep)
            out.put(rows, band)
            if aside is not None and aside_band is not None:
                aside.put(rows, aside_band)
            next_row = conv.reads(Span(rows.stop, rows.stop + 1), x.height)[0].start
            (x.unload if sweep.keeps else x.drop)(next_row)
            if added is not None:
                added.drop(rows.stop)
        (x.unload if sweep.keeps else x.drop)(x.height)
        if sweep.adds:
            return None
        return x if sweep.keeps else aside or skip

    def _attend(
        self, sweep: AttentionSweep, x: Map, out: Map, affine: Affine | None, moments: Moments | None
    ) -> None:
        layer, height, width = sweep.layer, sweep.height, sweep.width
        keys, values = (
            Places(height, width, layer.inner, self.pooled, self.network.dtype, self.network.device)
            for _ in range(2)
        )
        for rows, columns in tiles(height, width, sweep.tile):
            for cols in columns:
                window = self._window(x, rows, cols, affine)
                keys.put(rows, cols, layer.key(window))
                values.put(rows, cols, layer.value(window))
                self.step(sweep)
            x.unload(rows.stop)
        key, value = keys.all(), values.all()
        del keys, values
        for rows, columns in tiles(height, width, sweep.tile):
            band = out.new_band(rows)
            for cols in columns:
                query = layer.query(self._window(x, rows, cols, affine))
                attended = layer.out(attend(query, key, value, layer.heads)).transpose(1, 2)
                place = band[..., slice(*cols)]
                place.copy_(attended.unflatten(-1, (rows.length, cols.length)) + self._window(x, rows, cols))
                if moments is not None:
                    moments.add(place)
                self.step(sweep)
            out.put(rows, band)
            x.drop(rows.stop)

    def _map(self, channels: int, like: Sweep | AttentionSweep) -> FeatureMap:
        return FeatureMap(channels, like.height, like.width, self.network.dtype, self.store)

    def _window(
        self,
        x: Map,
        rows: Span,
        cols: Span,
        affine: Affine | None = None,
        activation: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """(1, C, rows, cols) of x: as it is, or normalised, or normalised and activated."""
        pieces = x.pieces(rows, cols)
        if affine is None:
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
        scale, shift = affine
        first = pieces[0]
        window = first.new_empty(1, x.channels, rows.length, cols.length)
        row = 0
        for piece in pieces:
            place = window[:, :, row : row + piece.shape[2]]
            if window.dtype == torch.float32:
                torch.addcmul(shift, piece, scale, out=place)
            else:  # statistics and the normalisation itself are fp32 in every precision, as in PyTorch's own
                place.copy_(torch.addcmul(shift, piece.float(), scale))
            row += piece.shape[2]
        return window if activation is None else activation(window, inplace=True)
