"""Mid-block attention over the whole latent, without its matrix of all pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A fallback of PyTorch may hold the weights of all these queries to all keys at once.
_WEIGHT_BYTES = 256 * 2**20


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: query (1, n, inner), key and value (1, N, inner) -> (1, n, inner).

    Queries go in groups, so that not even a kernel without memory of its own needs n x N.
    """
    query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    at_once = max(64, _WEIGHT_BYTES // (4 * heads * key.shape[2]))
    if query.device.type == "cpu":
        at_once = query.shape[2]  # its kernel never holds them
    found = [F.scaled_dot_product_attention(part, key, value) for part in query.split(at_once, dim=2)]
    return torch.cat(found, dim=2).transpose(1, 2).flatten(2)


def pool(places: Tensor, height: int, width: int, side: int) -> Tensor:
    """(1, height width, inner) averaged over squares of `side` -> (1, fewer, inner)."""
    grid = places.transpose(1, 2).unflatten(-1, (height, width))
    pooled = F.avg_pool2d(grid.float(), side, ceil_mode=True, count_include_pad=False).to(places.dtype)
    return pooled.flatten(2).transpose(1, 2)
