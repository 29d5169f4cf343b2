"""Our .safetensors of any method: all its tensors in one file, with method, sets, ranks and scales as metadata."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

from torch import Tensor

from ...documents import parse_json
from ...errors import CheckpointError
from ...method import Method
from ..one_step_weights import LoRASet, OneStepWeights
from ..tensor_file import TensorFile
from ..write_file import sorted_safetensors
from . import osediff
from .format import Format
from .osediff import CONV_IN

NAME, _VERSION = "one-step", "1"
_STRUCTURE = ("format", "version", "method", "conv_in", "sets")
_NETWORK, _EXTRA = "network.", "extra."


def format_for(method: str, about: Method) -> Format:
    """That of a method: a file of it says so itself."""
    return Format(
        method,
        f"{about.title} weights",
        lambda file: is_ours(file) and file.metadata.get("method") == method,
        partial(_read, method),
        write,
        ".safetensors",
        about,
    )


def is_ours(file: TensorFile) -> bool:
    """Whether a file is of this format, of whatever method."""
    return file.metadata.get("format") == NAME


def _read(method: str, file: TensorFile) -> OneStepWeights:
    """The weights; tensors against the file's own lists are kept in `missing` and `unexpected`."""
    metadata = file.metadata
    if metadata.get("version") != _VERSION:
        raise CheckpointError(
            f"{file.path} has format version {metadata.get('version', 'unknown')}, this program reads version "
            f"{_VERSION}; update it or export the file again."
        )
    rest = file.tensors()
    sets: dict[str, list[LoRASet]] = {"unet": [], "vae": []}
    missing = []
    for part, lora, modules in _sets(file):
        lead = ".".join(filter(None, (part, lora.name)))
        pairs, lacks, unexpected = osediff.pairs(
            rest,
            dict.fromkeys(modules, lead),
            lambda module, factor, lead: f"{lead}.{module}.lora_{factor}.weight",
        )
        rest = {name: rest[name] for name in unexpected}
        ordered = {module: pairs[module] for module in modules if module in pairs}
        sets[part].append(LoRASet(ordered, rank=lora.rank, scale=lora.scale, name=lora.name))
        missing += lacks
    conv_in = {n: rest.pop(f"unet.conv_in.{n}") for n in CONV_IN if f"unet.conv_in.{n}" in rest}
    if metadata.get("conv_in") == "replaced":
        missing += [f"unet.conv_in.{name}" for name in CONV_IN if name not in conv_in]
    network, extra = _taken(rest, _NETWORK), _taken(rest, _EXTRA)
    return OneStepWeights(
        method,
        tuple(sets["unet"]),
        *sets["vae"][:1],
        conv_in=conv_in,
        metadata={key: text for key, text in metadata.items() if key not in _STRUCTURE},
        source=str(file.path),
        missing=missing,
        unexpected=list(rest),
        network=network,
        extra=extra,
    )


def _taken(tensors: dict[str, Tensor], lead: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it; the others stay."""
    names = [name for name in tensors if name.startswith(lead)]
    return {name.removeprefix(lead): tensors.pop(name) for name in names}


def _sets(file: TensorFile) -> list[tuple[str, LoRASet, list[str]]]:
    """(part, an empty set with its rank, scale and name, its modules). Raises CheckpointError."""
    try:
        value: Any = parse_json(file.metadata["sets"])
        if not isinstance(value, list):
            raise ValueError(value)
        found = [
            (
                {"unet": "unet", "vae": "vae"}[one["part"]],
                LoRASet(rank=int(one["rank"]), scale=float(one["scale"]), name=str(one["name"])),
                osediff.module_names(file.path, "sets", one["modules"]),
            )
            for one in value
        ]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{file.path} does not say which LoRA sets it holds (metadata sets); export it again."
        ) from error
    names = [(part, lora.name) for part, lora, _ in found]
    of_vae = sum(part == "vae" for part, _ in names)
    if (
        len(set(names)) < len(names)
        or of_vae > 1
        or not all(math.isfinite(s.scale) and s.rank > 0 for _, s, _ in found)
    ):
        raise CheckpointError(f"{file.path} contradicts itself about its LoRA sets; export it again.")
    return found


def write(weights: OneStepWeights) -> bytes:
    """Equal weights as equal bytes."""
    sets = [("unet", lora) for lora in weights.unet_sets]
    sets += [("vae", weights.vae_lora)] if weights.vae_lora else []
    metadata = {
        **weights.metadata,
        "format": NAME,
        "version": _VERSION,
        "method": weights.method,
        "conv_in": "replaced" if weights.conv_in else "base",
        "sets": json.dumps(
            [
                {
                    "part": part,
                    "name": lora.name,
                    "rank": lora.rank,
                    "scale": lora.scale,
                    "modules": list(lora),
                }
                for part, lora in sets
            ]
        ),
    }
    network = {f"{_NETWORK}{name}": tensor for name, tensor in weights.network.items()}
    tensors = {name: t for name, t in weights.tensors().items() if name not in weights.network}
    return sorted_safetensors(network | tensors, metadata)
