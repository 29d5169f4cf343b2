"""LoRA at another rank: what is nearest to it at a lower one, the same at a higher one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from osediff_core.weights.formats import osediff
from osediff_core.weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights


def at_ranks(weights: OneStepWeights, rank_unet: int, rank_vae: int, seed: int = 0) -> OneStepWeights:
    """OSEDiff weights at these ranks, unchanged where they have them.

    A lower rank keeps the largest singular values of each update, the nearest that there is. A higher one adds what
    does nothing yet: rows of A drawn as peft draws them, from `seed`, and columns of B that are zero.
    """
    generator = torch.Generator().manual_seed(seed)
    return replace(
        weights,
        unet_sets=(_at_rank(weights.unet_lora, rank_unet, generator),),
        vae_lora=_at_rank(weights.vae_lora, rank_vae, generator),
    )


def _at_rank(lora: LoRASet, rank: int, generator: torch.Generator) -> LoRASet:
    scale = osediff.lora_scale(rank)
    if lora.rank == rank and lora.scale == scale:
        return lora
    make = _lower if rank < lora.rank else _higher
    pairs = {name: make(*pair, rank, generator) for name, pair in lora.items()}
    factor = lora.scale / scale
    return osediff.lora({name: LoRAPair(a, b * factor) for name, (a, b) in pairs.items()}, rank)


def _lower(a: Tensor, b: Tensor, rank: int, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """By the small matrices of a QR decomposition: the update itself may be large."""
    q_b, r_b = torch.linalg.qr(b.flatten(1).float())
    q_a, r_a = torch.linalg.qr(a.flatten(1).float().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    lower_a, lower_b = root[:, None] * (v[:kept] @ q_a.T), (q_b @ u[:, :kept]) * root
    if kept < rank:  # a layer that is narrower than the rank
        lower_a = torch.cat([lower_a, lower_a.new_zeros(rank - kept, lower_a.shape[1])])
        lower_b = torch.cat([lower_b, lower_b.new_zeros(len(lower_b), rank - kept)], dim=1)
    return lower_a.reshape(rank, *a.shape[1:]), lower_b.reshape(len(b), rank, *b.shape[2:])


def _higher(a: Tensor, b: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    more = rank - len(a)
    rows = torch.randn(more, *a.shape[1:], generator=generator) / rank
    return torch.cat([a.float(), rows]), torch.cat(
        [b.float(), b.new_zeros(len(b), more, *b.shape[2:]).float()], 1
    )
