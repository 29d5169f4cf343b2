"""Small taggers with random weights, in the layout of the official files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor

from osediff_core.dape import TaggerConfig, TaggerNetwork, TaggerWeights, write_tagger
from osediff_core.dape.lora import factor_shapes, lora_modules
from osediff_core.dape.official import official_shapes

SMALL = TaggerConfig(
    image_size=48,
    patch_size=4,
    swin_width=16,
    swin_depths=(2, 2),
    swin_heads=(2, 4),
    window_size=6,
    image_width=24,
    label_width=20,
    head_width=32,
    head_heads=4,
    head_layers=2,
    head_mlp_width=40,
    tags=tuple(range(100, 700)),  # more than the head takes at once
)
# for training: fewer tags, whose scores differ from picture to picture
MINI = dataclasses.replace(
    SMALL, image_size=32, window_size=4, head_layers=2, tags=tuple(range(40, 60)), thresholds=(0.5,) * 20
)
RANK = 2


def official_tensors(
    config: TaggerConfig = SMALL, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random weights under RAM's names, large enough that every part shows in the logits."""
    draws = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in official_shapes(config).items():
        values = torch.randn(shape, generator=draws)
        if name.endswith("table"):
            values *= 0.5
        elif len(shape) == 1:
            values = values * 0.1 + (1 if name.endswith("weight") else 0)
        elif name != "label_embed":
            values *= 2 / math.sqrt(math.prod(shape[1:]))
        tensors[name] = values.to(dtype)
    return tensors


def lora_tensors(
    config: TaggerConfig = SMALL, seed: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random LoRA under DAPE's names."""
    draws = torch.Generator().manual_seed(seed)
    shapes = official_shapes(config)
    return {
        f"{module}.lora_{factor}": torch.randn(shape, generator=draws).to(dtype) * 0.3
        for module in lora_modules(config)
        for factor, shape in zip("AB", factor_shapes(module, shapes[f"{module}.weight"], RANK), strict=True)
    }


def mini_network(seed: int = 0) -> TaggerNetwork:
    return TaggerWeights(MINI, official_tensors(MINI, seed)).network()


def write_mini_tagger(path: Path) -> Path:
    write_tagger(path, TaggerWeights(MINI, official_tensors(MINI)))
    return path
