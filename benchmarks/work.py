"""How many floating-point operations the three stages take at SD 2.1's size, counted on shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from .full_size import on_meta

TOKENS, EMBED_WIDTH = 77, 1024


def stage_operations(pixels: int) -> dict[str, int]:
    """Of a square picture taken whole, LoRA merged; 2 a multiply-add, attention as if it stored nothing."""
    unet, vae = (on_meta(part).eval() for part in ("unet", "vae"))
    image = torch.empty(1, 3, pixels, pixels, device="meta")
    latents = torch.empty(1, 4, pixels // 8, pixels // 8, device="meta")
    embeds = torch.empty(1, TOKENS, EMBED_WIDTH, device="meta")
    step = torch.tensor([999], device="meta")
    return {
        "encode": _count(lambda: vae.encode(image)),
        "denoise": _count(lambda: unet(latents, step, encoder_hidden_states=embeds)),
        "decode": _count(lambda: vae.decode(latents)),
    }


def _count(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()
