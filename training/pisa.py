"""PiSA-SR's two LoRA sets (Sun et al., CVPR 2025, arXiv 2412.03017), for training: pixels first, then semantics.

    pixel stage      z_H = z_L - eps_pix(z_L; 1),  MSE alone, the first set trained
    semantic stage   z_H = z_L - eps_both(z_L; 1), MSE + LPIPS + CSD, the second set trained beside the frozen first

Each stage is a run of its own; the second starts from the first one's weights. Both files hold both sets: after the
first stage the second still adds nothing. As in its code, the sets lie on OSEDiff's modules, and conv_in's own weights
and the VAE stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from osediff_core.errors import CheckpointError
from osediff_core.weights.formats import pisa_sr
from osediff_core.weights.formats.osediff import ADAPTER_OF_GROUP, lora_scale
from osediff_core.weights.lora_targets import unet_targets
from osediff_core.weights.one_step_weights import LoRASet, OneStepWeights

from .adapters import collect_pairs

METHOD = pisa_sr.METHOD
PIXEL, SEMANTIC = "pixel", "semantic"
TIMESTEP = 1
_LEVEL = {PIXEL: "pix", SEMANTIC: "sem"}


def adapters_of(stage: str) -> list[str]:
    """peft's names of a stage's own set."""
    return [f"{adapter}_{_LEVEL[stage]}" for adapter in ADAPTER_OF_GROUP.values()]


def acting(stage: str) -> list[str]:
    """Those that act while a stage is trained."""
    return adapters_of(PIXEL) + (adapters_of(SEMANTIC) if stage == SEMANTIC else [])


def attach(unet: UNet2DConditionModel, rank: int) -> dict[str, list[str]]:
    """Put both sets on, in place, and freeze everything; the groups of modules, as checkpoints name them."""
    from peft import LoraConfig

    groups = unet_targets(name for name, _ in unet.named_parameters())
    unet.requires_grad_(False)
    for stage in (PIXEL, SEMANTIC):
        for adapter, modules in zip(adapters_of(stage), groups.values(), strict=True):
            if modules:
                config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules)
                unet.add_adapter(config, adapter_name=adapter)
    return groups


def weights_of(unet: nn.Module, timestep: int, metadata: Mapping[str, str]) -> OneStepWeights:
    """Copies of both sets, on the CPU."""
    sets = []
    for stage, level in _LEVEL.items():
        pairs = collect_pairs(unet, set(adapters_of(stage)))
        rank = next(iter(pairs.values())).A.shape[0]
        sets.append(LoRASet(pairs, rank=rank, scale=lora_scale(rank), name=level))
    facts = {"timestep": str(timestep), "prediction_type": "epsilon", "rule": "residual", **metadata}
    return OneStepWeights(METHOD, tuple(sets), metadata=facts, source="the network under training")


@torch.no_grad()
def copy_into(weights: OneStepWeights, unet: nn.Module) -> None:
    """Set both sets. Raises CheckpointError, before anything changes, for another method, base or rank."""
    if weights.method != METHOD:
        raise CheckpointError(
            f"{weights.source} is of the method {weights.method}; start a PiSA-SR run from PiSA-SR's weights."
        )
    own = dict(unet.named_parameters())
    moves: list[tuple[Tensor, Tensor]] = []
    faults: list[str] = []
    for lora in weights.unet_sets:
        for module, pair in lora.items():
            for factor, tensor in zip("AB", pair, strict=True):
                names = [f"{module}.lora_{factor}.{a}_{lora.name}.weight" for a in ADAPTER_OF_GROUP.values()]
                target: Tensor | None = next((own[name] for name in names if name in own), None)
                if target is None or target.shape != tensor.shape:
                    faults.append(f"{lora.name} {module}")
                else:
                    moves.append((target, tensor))
    if faults:
        raise CheckpointError(
            f"{weights.source} does not fit the adapters in training; use the same base and rank "
            f"(without a place or of another shape: {', '.join(dict.fromkeys(faults))})."
        )
    for target, tensor in moves:
        assert target is not None
        target.copy_(tensor)
