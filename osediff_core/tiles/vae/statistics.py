"""Group norm with the statistics of a whole image that is seen tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from ...layers import Norm

# Beyond this ratio of mean to spread, sums of squares in fp32 lose too many digits of the variance.
_FAR_FROM_ZERO = 30.0


class Moments:
    """Mean and sum of squared deviations of each channel, collected over tiles that do not overlap.

    Tiles are combined by Chan, Golub and LeVeque's formula (1979) in float64, so the order and the size of the tiles
    make no difference beyond rounding.
    """

    def __init__(self) -> None:
        self._tiles: list[tuple[int, Tensor, Tensor]] = []

    def add(self, tile: Tensor) -> None:
        """tile (1, C, h, w), in any dtype; each pixel of the image once."""
        self._tiles.append((tile.shape[-2] * tile.shape[-1], *_moments(tile)))

    def affine(self, norm: Norm, device: torch.device) -> tuple[Tensor, Tensor]:
        """(scale, shift), each (1, C, 1, 1) in fp32 on `device`, so that norm(x) = scale x + shift."""
        # where there is float64: on the accelerator itself, or else the next sweep would have to wait for this one
        where = device if device.type == "cuda" else torch.device("cpu")
        pixels = [count for count, _, _ in self._tiles]
        counts = torch.tensor(pixels, dtype=torch.float64, device=where)[:, None]
        means = torch.stack([mean for _, mean, _ in self._tiles]).to(where).double()  # (tiles, C)
        squares = torch.stack([square for _, _, square in self._tiles]).to(where).double()
        by_group = (norm.groups, means.shape[1] // norm.groups)
        total = sum(pixels) * by_group[1]
        mean = (counts * means).sum(0).view(by_group).sum(1) / total  # (groups,)
        away = means - mean.repeat_interleave(by_group[1])
        variance = (squares + counts * away**2).sum(0).view(by_group).sum(1) / total
        spread = torch.rsqrt(variance + norm.eps)
        weight, bias = (t.detach().to(where).double() for t in norm.affine())
        scale = weight * spread.repeat_interleave(by_group[1])
        shift = bias - mean.repeat_interleave(by_group[1]) * scale
        return (
            scale.float().to(device).view(1, -1, 1, 1),
            shift.float().to(device).view(1, -1, 1, 1),
        )


def _moments(tile: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel of (1, C, h, w) -> each (C,)."""
    count = tile.shape[-2] * tile.shape[-1]
    if tile.device.type != "cpu":
        variance, mean = torch.var_mean(tile[0].float(), dim=(1, 2), correction=0)
        return mean, variance * count
    # On the CPU var_mean takes ten times as long as these sums over rows, which are summed up in float64.
    mean = tile[0].sum(-1, dtype=torch.float32).double().sum(-1) / count
    powers = torch.linalg.vector_norm(tile[0], dim=-1, dtype=torch.float32).double().square().sum(-1)
    squares = (powers - count * mean**2).clamp_min(0)
    if bool((mean**2 * count > squares * _FAR_FROM_ZERO**2).any()):
        squares = (tile[0] - mean.to(torch.float32)[:, None, None]).double().square().sum((1, 2))
    return mean, squares
