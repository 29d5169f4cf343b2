"""Speed of a run: switches of torch for networks that are on their device."""

from __future__ import annotations

import torch
from torch import nn

from .config import SpeedConfig
from .networks import Networks


def apply_speed(speed: SpeedConfig, networks: Networks, perceptual: nn.Module | None) -> None:
    """Apply the switches, in place. tf32 is the process's."""
    if speed.tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    unet, vae = networks.base.unet.module, networks.base.vae.module
    if speed.channels_last:
        for module in (unet, vae, *([perceptual] if perceptual is not None else [])):
            nn.Module.to(module, memory_format=torch.channels_last)
    if speed.compile != "none":
        # The UNet changes its role around each call, and the encoder with it: each role would be compiled anew.
        tuned = any(parameter.requires_grad for parameter in vae.decoder.parameters())
        compiled = [*([] if tuned else [vae.decoder]), *([perceptual] if perceptual is not None else [])]
        for module in compiled:
            module.compile(backend=speed.compile)
