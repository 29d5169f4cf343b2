"""Layers of a VAE's encoder or decoder as plain descriptions, whatever library they came from.

The exact tiles (`tiles/vae`) know nothing else of a network. Whoever has one describes it with these: for diffusers
that is `backends/vae_layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """Positions start ... stop - 1 along one axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.stop - self.start


@dataclass(frozen=True)
class Convolution:
    """A convolution that pads for itself: apply (1, C, h, w) -> (1, out_channels, h', w').

    reach: how many pixels beyond its own place an output pixel reads, 1 for a 3x3 kernel, 0 for 1x1.
    change: "same"; "half" for stride 2 with one row and column of zeros at the bottom and right; "double" for nearest
    enlargement before the convolution.
    """

    apply: Callable[[Tensor], Tensor]
    in_channels: int
    out_channels: int
    reach: int = 1
    change: str = "same"

    def size(self, length: int) -> int:
        """The output's length for an input's."""
        return {"same": length, "half": length // 2, "double": 2 * length}[self.change]

    def reads(self, wanted: Span, length: int) -> tuple[Span, int]:
        """The inputs for the outputs `wanted`, and the place of these in what comes out.

        length: of the whole input along this axis. At its ends the convolution's own padding is the true one; inside,
        the outputs that saw padding lie outside of `wanted`.
        """
        start, stop = wanted
        if self.change == "half":
            return Span(2 * start, min(length, 2 * stop + 1)), 0
        if self.change == "double":
            first = max(0, (start - self.reach) // 2)
            last = (stop - 1 + self.reach) // 2
            return Span(first, min(length, last + 1)), start - 2 * first
        first = max(0, start - self.reach)
        return Span(first, min(length, stop + self.reach)), start - first


@dataclass(frozen=True)
class Norm:
    """A group norm; affine() gives weight and bias, each (C,)."""

    groups: int
    eps: float
    affine: Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Resnet:
    """x -> shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))."""

    norm1: Norm
    conv1: Convolution
    norm2: Norm
    conv2: Convolution
    shortcut: Convolution | None = None


@dataclass(frozen=True)
class Attention:
    """x -> x + out(softmax(q k^T / sqrt(d)) v) over all places of the image.

    query, key, value: normalised (1, C, h, w) -> (1, h w, inner). out: (1, n, inner) -> (1, n, C).
    idle(): whether `out` gives zeros whatever comes in, and is not being trained: x stays x, uncomputed. A function, as
    looking waits for an accelerator, and training never asks.
    """

    norm: Norm
    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    channels: int
    inner: int
    heads: int = 1
    idle: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Head:
    """x -> conv(silu(norm(x)))."""

    norm: Norm
    conv: Convolution


Layer = Convolution | Resnet | Attention | Head


@dataclass(frozen=True)
class Network:
    """Layers in their order, where their weights are and in which dtype they compute.

    pixels: how many image pixels an input element spans along an axis: 1 for an encoder, f for a decoder.
    before, after: what happens to the input ahead of the first layer and to the fp32 output behind the last, element by
    element in place: the scaling of latents. requires_grad: whether any of the weights is trained. result_device: where
    the result is put; None: `device`.
    """

    layers: Sequence[Layer]
    device: torch.device
    dtype: torch.dtype
    pixels: int
    before: Callable[[Tensor], Tensor] = lambda x: x
    after: Callable[[Tensor], Tensor] = lambda x: x
    requires_grad: Callable[[], bool] = lambda: False
    result_device: torch.device | None = None
