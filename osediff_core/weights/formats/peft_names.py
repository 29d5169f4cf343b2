"""LoRA under peft's names, MODULE.lora_A.ADAPTER.weight, as most methods save theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..one_step_weights import LoRAPair
from ..tensor_file import TensorFile

# peft's own files have a prefix and no adapter's name, a network's state dict has it the other way round
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<factor>[AB])(?:\.\w+)?\.weight")


def modules_in(names: Iterable[str]) -> set[str] | None:
    """The modules that tensors of these names adapt; None if some are no LoRA."""
    found = [_NAME.fullmatch(name) for name in names]
    return {match["module"] for match in found if match} if found and all(found) else None


def is_unet(file: TensorFile) -> bool:
    """Whether a file holds LoRA of a diffusion UNet in diffusers' naming, and nothing else."""
    modules = modules_in(file.shapes) or set()
    return (
        any(".transformer_blocks." in module for module in modules)
        and any(module.startswith("down_blocks.") for module in modules)
        and not any(module.startswith(("unet.", "text_encoder", "encoder.")) for module in modules)
    )


def pairs_of(
    tensors: Mapping[str, Tensor], lead: str = ""
) -> tuple[dict[str, LoRAPair], list[str], list[str]]:
    """(pairs in the tensors' order, names of factors that lack their other half, names that are none).

    lead: put before the modules' names.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    unexpected = []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            unexpected.append(name)
        else:
            halves.setdefault(lead + match["module"], {})[match["factor"]] = tensor
    pairs = {module: LoRAPair(half["A"], half["B"]) for module, half in halves.items() if len(half) == 2}
    missing = [
        f"{module}.lora_{factor}" for module, half in halves.items() for factor in "AB" if factor not in half
    ]
    return pairs, missing, unexpected
