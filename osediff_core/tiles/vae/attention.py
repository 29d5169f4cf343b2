"""Mid-block attention over the whole latent, without its matrix of all pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...layers import Span

# A fallback of PyTorch may hold the weights of all these queries to all keys at once.
_WEIGHT_BYTES = 256 * 2**20


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: query (1, n, inner), key and value (1, N, inner) -> (1, n, inner).

    Queries go in groups, so that not even a kernel without memory of its own needs n x N.
    """
    query, key, value = (
        rearrange(t, "b n (heads d) -> b heads n d", heads=heads) for t in (query, key, value)
    )
    at_once = max(64, _WEIGHT_BYTES // (4 * heads * key.shape[2]))
    if query.device.type == "cpu":
        at_once = query.shape[2]  # its kernel never holds them
    found = [F.scaled_dot_product_attention(part, key, value) for part in query.split(at_once, dim=2)]
    return rearrange(torch.cat(found, dim=2), "b heads n d -> b n (heads d)")


class Places:
    """Keys or values of all places (1, height, width, inner), put in window by window.

    side: of the squares over which they are averaged, those at the right and at the bottom over what there is; 1 keeps
    every place. Sums are fp32 whatever the dtype.
    """

    def __init__(
        self, height: int, width: int, inner: int, side: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._size, self._side, self._dtype = (height, width), side, dtype
        shape = (-(-height // side), -(-width // side), inner)
        self._sums = torch.zeros(shape, dtype=torch.float32 if side > 1 else dtype, device=device)

    def put(self, rows: Span, columns: Span, window: Tensor) -> None:
        """window: (1, rows columns, inner)."""
        window = window[0].unflatten(0, (rows.length, columns.length))
        if self._side == 1:
            self._sums[slice(*rows), slice(*columns)] = window
            return
        by_row = self._added(window.float(), rows, dim=0)
        row, column = rows.start // self._side, columns.start // self._side
        found = self._added(by_row, columns, dim=1)
        self._sums[row : row + found.shape[0], column : column + found.shape[1]] += found

    def all(self) -> Tensor:
        """(1, places or squares, inner)."""
        found = self._sums
        if self._side > 1:
            for dim, length in enumerate(self._size):
                starts = torch.arange(0, length, self._side, device=found.device)
                counts = (length - starts).clamp(max=self._side)
                found = found / counts.view([-1, 1, 1] if dim == 0 else [1, -1, 1])
        return found.to(self._dtype).flatten(0, 1)[None]

    def _added(self, window: Tensor, span: Span, dim: int) -> Tensor:
        """Summed along `dim` over what falls into the same square."""
        index = torch.arange(span.start, span.stop, device=window.device) // self._side
        index = index - span.start // self._side
        shape = list(window.shape)
        shape[dim] = int(index[-1]) + 1
        return window.new_zeros(shape).index_add_(dim, index, window)
