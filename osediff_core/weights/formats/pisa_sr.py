"""PiSA-SR's file: two LoRA sets of the UNet, for pixels and for semantics, whose predictions two sliders weigh.

x0 = z - (lp e_pix + ls (e_both - e_pix)), where e_pix is predicted with the first set alone and e_both with both, as in
the "adjustable" mode of its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from ...method import Method, Slider
from ...passes import Pass
from ..lora_targets import unet_targets
from ..one_step_weights import LoRASet, OneStepWeights
from ..tensor_file import TensorFile
from ..write_file import torch_bytes
from . import osediff
from .format import Format
from .osediff import ADAPTER_OF_GROUP

METHOD = "pisa-sr"
_LEVELS = ("pix", "sem")
_MOST_SEMANTIC = 1.5  # at fidelity -1; beyond, its authors show artefacts


def recognise(file: TensorFile) -> bool:
    """By the keys of its dict."""
    return isinstance(file.content, Mapping) and {"lora_rank_unet_pix", "state_dict_unet"} <= set(
        file.content
    )


def read(file: TensorFile) -> OneStepWeights:
    """The weights; tensors against the file's own lists are kept in `missing` and `unexpected`."""
    keys = {level: {g: f"unet_lora_{g}_modules_{level}" for g in ADAPTER_OF_GROUP} for level in _LEVELS}
    absent = [key for level in _LEVELS for key in (*keys[level].values(), f"lora_rank_unet_{level}")]
    absent = [key for key in absent if key not in file.content]
    if absent:
        raise CheckpointError(f"{file.path} lacks {', '.join(absent)}; download it again.")
    tensors = osediff.state_dict(file, "state_dict_unet")
    sets, missing, unexpected = [], [], dict.fromkeys(tensors)
    for level in _LEVELS:
        adapters = {
            module: f"{ADAPTER_OF_GROUP[group]}_{level}"
            for group, key in keys[level].items()
            for module in osediff.module_names(file.path, key, file.content[key])
        }
        pairs, gaps, rest = osediff.pairs(tensors, adapters, osediff.peft_key)
        rank = osediff.rank(file.path, file.content, f"lora_rank_unet_{level}")
        sets.append(LoRASet(pairs, rank=rank, scale=osediff.lora_scale(rank), name=level))
        missing += [f"unet {name}" for name in gaps]
        unexpected = {name: None for name in unexpected if name in rest}
    return OneStepWeights(
        METHOD,
        tuple(sets),
        metadata={"timestep": "1", "prediction_type": "epsilon", "rule": "residual", "base": ABOUT.base},
        source=str(file.path),
        missing=missing,
        unexpected=[f"unet {name}" for name in unexpected],
    )


def write(weights: OneStepWeights) -> bytes:
    """As its own code saves it. Raises CheckpointError where its readers would take another scale."""
    content: dict[str, Any] = {}
    tensors = {}
    for lora in weights.unet_sets:
        if lora.scale != osediff.lora_scale(lora.rank):
            raise CheckpointError(
                f"{weights.source} is not written, as its LoRA {lora.name} has the scale {lora.scale:g}, and every "
                f"reader of the file would take {osediff.LORA_ALPHA} / {lora.rank}."
            )
        groups = unet_targets(f"{module}.weight" for module in lora)
        for group, modules in groups.items():
            content[f"unet_lora_{group}_modules_{lora.name}"] = modules
            for module in modules:
                for factor, tensor in zip("AB", lora[module], strict=True):
                    adapter = f"{ADAPTER_OF_GROUP[group]}_{lora.name}"
                    tensors[osediff.peft_key(module, factor, adapter)] = tensor
        content[f"lora_rank_unet_{lora.name}"] = lora.rank
    return torch_bytes({**content, "state_dict_unet": tensors})


def passes(pixel: float, semantic: float) -> tuple[Pass, ...]:
    """As few as give lp e_pix + ls (e_both - e_pix): one where lp = ls or ls = 0, none where both are 0."""
    both = (Pass(pixel - semantic, ("pix",)), Pass(semantic, _LEVELS))
    return tuple(one for one in both if one.weight)


def fidelity(value: float) -> dict[str, float]:
    """-1: more semantic detail; 0: as trained; up to 0.5 less of it; from there less of all; 1: the input.

    The path was not measured, as no published weights were at hand.
    """
    if value < 0:
        return {"pixel": 1.0, "semantic": 1 - value * (_MOST_SEMANTIC - 1)}
    return {"pixel": min(1.0, 2 - 2 * value), "semantic": max(0.0, 1 - 2 * value)}


ABOUT = Method(
    title="PiSA-SR",
    base="stable-diffusion-2-1-base",
    prompt="empty, always",
    reads_words=False,
    licence="Apache-2.0",
    source="https://github.com/csslc/PiSA-SR",
    sliders=(
        Slider("pixel", "what is predicted of degradation removed"),
        Slider("semantic", "what is predicted of detail added"),
    ),
    passes=passes,
    fidelity=fidelity,
    centred_tiles=True,
)
FORMAT = Format(METHOD, "PiSA-SR weights", recognise, read, write, ".pkl", ABOUT)
