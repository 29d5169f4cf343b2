"""The common part of OSEDiff's two formats: adapted modules by group, a rank for each network, the scale 8 / rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import CheckpointError
from ...method import Method
from ..one_step_weights import LoRAPair, LoRASet, OneStepWeights
from ..tensor_file import Shape, TensorFile

METHOD = "osediff"
CONV_IN = ("weight", "bias")
# The official code gives each UNet group its own peft adapter; the VAE's only one is called like the first.
ADAPTER_OF_GROUP = {"encoder": "default_encoder", "decoder": "default_decoder", "others": "default_others"}
VAE_ADAPTER = "default_encoder"
# (shape of the UNet's conv_in, width of its prompt embeddings) -> name of the base
KNOWN_BASES: dict[tuple[Shape, int], str] = {
    ((320, 4, 3, 3), 1024): "stable-diffusion-2-1-base",
    ((64, 8, 3, 3), 64): "osediff-tiny",
}
DEFAULT_METADATA = {"format": METHOD, "version": "1", "timestep": "999", "prediction_type": "epsilon"}
ABOUT = Method(
    title="OSEDiff",
    base="stable-diffusion-2-1-base",
    prompt="tags of what the picture shows, as DAPE finds them, and words of your own; may be empty",
    licence="Apache-2.0",
    source="https://github.com/cswry/OSEDiff",
)
LORA_ALPHA = 8  # peft's default; the official code never sets it and its checkpoints do not store it


def lora_scale(rank: int) -> float:
    """Factor of B @ A: lora_alpha / rank = 8 / rank (2.0 at the official rank 4)."""
    return LORA_ALPHA / rank


def lora(pairs: Mapping[str, LoRAPair], rank: int) -> LoRASet:
    """A set with the scale that follows from the rank."""
    return LoRASet(pairs, rank=rank, scale=lora_scale(rank))


def guess_base(unet_lora: Mapping[str, LoRAPair], conv_in: Mapping[str, Tensor]) -> str:
    """Name of the base the shapes speak for, as official files do not say: one of KNOWN_BASES or "unknown"."""
    conv = conv_in.get("weight")
    cross = next((pair.A for name, pair in unet_lora.items() if name.endswith("attn2.to_k")), None)
    if conv is None or cross is None:
        return "unknown"
    return KNOWN_BASES.get((tuple(conv.shape), next(iter(cross.shape[1:]), 0)), "unknown")


def pairs(
    tensors: Mapping[str, Tensor], adapters: Mapping[str, str], key: Callable[[str, str, str], str]
) -> tuple[dict[str, LoRAPair], list[str], list[str]]:
    """(pairs in the tensors' order, missing names, unexpected names) for the modules that the lists name.

    adapters: module -> adapter. key(module, "A" or "B", adapter): the tensor's name.
    """
    expected = {
        key(module, factor, adapter): module for module, adapter in adapters.items() for factor in "AB"
    }
    order = dict.fromkeys(expected[name] for name in tensors if name in expected)
    found = {}
    for module in order:
        a, b = (tensors.get(key(module, factor, adapters[module])) for factor in "AB")
        if a is not None and b is not None:
            found[module] = LoRAPair(a, b)
    return found, [n for n in expected if n not in tensors], [n for n in tensors if n not in expected]


def peft_key(module: str, factor: str, adapter: str) -> str:
    """The name of a tensor in a state dict of peft's."""
    return f"{module}.lora_{factor}.{adapter}.weight"


def state_dict(file: TensorFile, key: str) -> dict[str, Tensor]:
    """The tensors by name that a torch file has under `key`. Raises CheckpointError if there are none."""
    value = file.content[key]
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise CheckpointError(f"{file.path} has no tensors by name in {key}; download or export it again.")
    return {str(name): tensor for name, tensor in value.items()}


def module_names(path: Path, key: str, value: object) -> list[str]:
    """A list of names as the file has it under `key`. Raises CheckpointError if it is none."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path} has no list of module names in {key}; download or export it again.")
    return list(value)


def rank(path: Path, content: Mapping[str, Any], key: str) -> int:
    """The rank that the file has under `key`. Raises CheckpointError if it is none."""
    try:
        found = int(content[key])
    except (TypeError, ValueError, OverflowError):
        found = 0
    if found < 1:
        raise CheckpointError(
            f"{path} has {key} {content[key]!r:.60}, not a positive whole number; export it again."
        )
    return found


def check_writable(weights: OneStepWeights) -> None:
    """Both formats say by their lists which adapter a module belongs to, and by the rank what the scale is.

    Raises CheckpointError for lists and tensors that do not name the same modules, and for another scale.
    """
    listed = {f"unet {name}" for name in weights.group_of} | {f"vae {name}" for name in weights.vae_modules}
    held = {f"unet {name}" for name in weights.unet_lora} | {f"vae {name}" for name in weights.vae_lora}
    if listed != held:
        raise CheckpointError(
            f"{weights.source} is not written, as its lists and its LoRA name different modules: "
            f"{', '.join(sorted(listed ^ held))}."
        )
    for part in (weights.unet_lora, weights.vae_lora):
        if part.scale != lora_scale(part.rank):
            raise CheckpointError(
                f"{weights.source} is not written, as its LoRA has the scale {part.scale:g}, and every reader of the "
                f"file would take {LORA_ALPHA} / {part.rank}."
            )
