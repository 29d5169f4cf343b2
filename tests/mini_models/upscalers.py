"""GAN upscalers, small and random, under the names of their trainers, and what they compute, written down anew."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, GROWTH = 8, 32  # spandrel knows no other growth


def esrgan_tensors() -> dict[str, Tensor]:
    """As RealESRGAN_x4plus.pth, BSRGAN and LDL are named since 2021, with one block instead of 23."""
    draw = torch.Generator().manual_seed(12)
    shapes = {"conv_first": (WIDTH, 3)}
    for dense in (1, 2, 3):
        for conv in range(1, 6):
            out = WIDTH if conv == 5 else GROWTH
            shapes[f"body.0.rdb{dense}.conv{conv}"] = (out, WIDTH + (conv - 1) * GROWTH)
    shapes |= {name: (WIDTH, WIDTH) for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr")}
    shapes["conv_last"] = (3, WIDTH)
    found = {}
    for name, (out, inward) in shapes.items():
        found[f"{name}.weight"] = torch.randn(out, inward, 3, 3, generator=draw) / (3 * inward**0.5)
        found[f"{name}.bias"] = 0.1 * torch.randn(out, generator=draw)
    return found


def esrgan(tensors: dict[str, Tensor], image: Tensor) -> Tensor:
    """(B, 3, h, w) in [0, 1] -> (B, 3, 4 h, 4 w): Wang et al., arXiv 1809.00219, with nearest enlargement."""

    def conv(name: str, x: Tensor, activate: bool = False) -> Tensor:
        x = F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)
        return F.leaky_relu(x, 0.2) if activate else x

    first = conv("conv_first", image)
    x = first
    for dense in (1, 2, 3):
        held = [x]
        for number in range(1, 6):
            held.append(conv(f"body.0.rdb{dense}.conv{number}", torch.cat(held, 1), number < 5))
        x = x + 0.2 * held[-1]
    x = first + conv("conv_body", first + 0.2 * x)
    for name in ("conv_up1", "conv_up2"):
        x = conv(name, F.interpolate(x, scale_factor=2.0, mode="nearest"), True)
    return conv("conv_last", conv("conv_hr", x, True)).clamp(0, 1)
