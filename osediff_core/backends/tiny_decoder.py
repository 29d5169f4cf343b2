"""TAESD's decoder as an AutoencoderKL calls its own, and as layers for exact tiles."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from torch import Tensor, nn

from ..layers import Convolution, Layer


class TinyDecoder(nn.Module):
    """TAESD's decoder for an AutoencoderKL of this scaling factor: latents / scale (B, 4, h, w) -> image in [-1, 1]."""

    def __init__(self, scaling_factor: float) -> None:
        super().__init__()
        self.scaling_factor = scaling_factor
        self.tiny = DecoderTiny(4, 3, (3, 3, 3, 1), (64, 64, 64, 64), 2, "relu", "nearest")

    def forward(self, latents: Tensor, *_: object) -> Tensor:
        """As AutoencoderKL calls its decoder."""
        return self.tiny(latents * self.scaling_factor)

    def layers(self) -> list[Layer]:
        """The same as layers for exact tiles: without norms every output sees but a few places around it."""
        modules = list(self.tiny.layers)
        first, last = cast("nn.Conv2d", modules[0]), cast("nn.Conv2d", modules[-1])
        start = nn.Sequential(_Bounded(self.scaling_factor), first, modules[1])
        layers = [Convolution(start, first.in_channels, first.out_channels)]
        inner = iter(modules[2:-1])
        for module in inner:
            if isinstance(module, nn.Upsample):
                conv = cast("nn.Conv2d", next(inner))
                both = nn.Sequential(module, conv)
                layers.append(Convolution(both, conv.in_channels, conv.out_channels, change="double"))
            else:  # three convolutions of 3x3
                layers.append(Convolution(module, first.out_channels, first.out_channels, reach=3))
        end = nn.Sequential(last, _ToImage())
        return [*layers, Convolution(end, last.in_channels, last.out_channels)]


class _Bounded(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents * self.factor / 3) * 3


class _ToImage(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mul(2).sub(1)
