"""DAPE's LoRA on RAM: which tensors it adapts, and what is added to which rows.

It was trained with loralib 0.1.2 and lora_alpha 1, so the scale is 1 / rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..weights.one_step_weights import LoRAPair
from .config import TaggerConfig

_QKV = ".attn.qkv"


def lora_modules(config: TaggerConfig) -> list[str]:
    """Official names of the modules that DAPE adapts: q and v of every Swin block, q and k of every head layer."""
    blocks = [
        f"visual_encoder.layers.{stage}.blocks.{block}{_QKV}"
        for stage, depth in enumerate(config.swin_depths)
        for block in range(depth)
    ]
    heads = [
        f"tagging_head.encoder.layer.{layer}.crossattention.self.{name}"
        for layer in range(config.head_layers)
        for name in ("query", "key")
    ]
    return blocks + heads


def factor_shapes(module: str, weight: tuple[int, ...], rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of A and B for a module whose weight has this shape; a fused qkv holds those of q, then those of v."""
    out, inner = weight
    if module.endswith(_QKV):
        return (2 * rank, inner), (2 * out // 3, rank)
    return (rank, inner), (out, rank)


def rank_of(module: str, pair: LoRAPair) -> int:
    """The LoRA's rank, from its A."""
    return pair.A.shape[0] // 2 if module.endswith(_QKV) else pair.A.shape[0]


def merged(module: str, weight: Tensor, pair: LoRAPair) -> Tensor:
    """weight + B @ A / rank, in fp32; of a fused qkv the rows of k stay as they are."""
    rank = rank_of(module, pair)
    a, b = pair.A.float(), pair.B.float()
    weight = weight.float()
    if not module.endswith(_QKV):
        return weight + b @ a / rank
    q, k, v = weight.chunk(3)
    return torch.cat([q + b[: len(q)] @ a[:rank] / rank, k, v + b[len(q) :] @ a[rank:] / rank])


def pairs_of(tensors: Mapping[str, Tensor], modules: Iterable[str]) -> dict[str, LoRAPair]:
    """The pairs of those modules whose two factors are there."""
    return {
        module: LoRAPair(tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"])
        for module in modules
        if f"{module}.lora_A" in tensors and f"{module}.lora_B" in tensors
    }
