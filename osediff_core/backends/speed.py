"""Speed switches of a loaded generator, each with its gain and its price.

The figures are those of docs/speed.md (`python -m benchmarks.speed`): SD 2.1's full size, 256 x 256 pixels, two cores
with AVX-512 bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel


@dataclass(frozen=True)
class Speed:
    """Switches; None is "where it pays": in half precision on the CPU.

    channels_last: convolutions on channels-last tensors, which oneDNN prefers: 1.11 times as fast in bf16, for 0.3 dB
        (50.3 instead of 50.6). In fp32 it is off because PyTorch's group norm of that layout is off by up to 7e-4 on
        the CPU.
    compile: torch.compile of the UNet, and of the VAE's encoder and decoder where an image goes whole through them (its
        tiles take the layers one by one, uncompiled). The first picture of each size waits for the compiler (minutes on
        a CPU, which needs a C++ compiler), so it pays for many pictures of one size. On `tiny` the result is at most
        one of 255 levels off; the gain at full size was not measured.
    """

    channels_last: bool | None = None
    compile: bool = False


def weight_layout(speed: Speed, dtype: torch.dtype, device: torch.device) -> torch.memory_format | None:
    """The layout that the weights of convolutions should have; None: as they come."""
    pays = device.type == "cpu" and dtype != torch.float32
    return torch.channels_last if (pays if speed.channels_last is None else speed.channels_last) else None


def apply_speed(
    speed: Speed, unet: UNet2DConditionModel, vae: AutoencoderKL, dtype: torch.dtype, device: torch.device
) -> None:
    """Apply the switches to networks whose weights are on their way to `dtype` and `device`."""
    layout = weight_layout(speed, dtype, device)
    networks: list[nn.Module] = [unet, vae]
    if layout is not None:
        for module in networks:
            module.to(memory_format=layout)
    if speed.compile:
        # in place, so that weights keep their names; what is compiled is a module's __call__, which a VAE's encode and
        # decode go around
        compiled: list[nn.Module] = [unet, vae.encoder, vae.decoder]
        for module in compiled:
            module.compile()
