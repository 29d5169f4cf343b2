"""The two file formats of OSEDiff weights as pure, lossless conversions: what a file holds <-> OSEDiffWeights."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError
from .identify import OFFICIAL_LISTS, OFFICIAL_VAE_LIST
from .one_step_weights import (
    ADAPTER_OF_GROUP,
    DEFAULT_METADATA,
    FORMAT_VERSION,
    VAE_ADAPTER,
    LoRAPair,
    OSEDiffWeights,
    guess_base,
)

_CONV_IN = ("weight", "bias")
_STRUCTURE = ("rank_unet", "rank_vae", "conv_in", "vae_modules", "unet_order", "vae_order")


# --- official format: lists, ranks, state_dict_unet, state_dict_vae (official code, `save_model`) ---


def _official_key(module: str, factor: str, adapter: str) -> str:
    return f"{module}.lora_{factor}.{adapter}.weight"


def from_official(path: Path, content: Mapping[str, Any]) -> OSEDiffWeights:
    groups = {group: _names(path, key, content[key]) for group, key in OFFICIAL_LISTS.items()}
    vae_modules = _names(path, OFFICIAL_VAE_LIST, content[OFFICIAL_VAE_LIST])
    unet, vae = (_state_dict(path, key, content[key]) for key in ("state_dict_unet", "state_dict_vae"))
    conv_in, rest = {}, {}
    for name, tensor in unet.items():  # "conv_in.weight" is how conv_in is called where no adapter wraps it
        short = name.removeprefix("conv_in.").removeprefix("base_layer.")
        if name.startswith("conv_in.") and short in _CONV_IN and short not in conv_in:
            conv_in[short] = tensor
        else:
            rest[name] = tensor
    adapters = {module: ADAPTER_OF_GROUP[group] for group, modules in groups.items() for module in modules}
    unet_lora, missing, unexpected = _pairs(rest, adapters, _official_key)
    vae_lora, vae_missing, vae_unexpected = _pairs(
        vae, dict.fromkeys(vae_modules, VAE_ADAPTER), _official_key
    )
    missing = [f"conv_in.base_layer.{name}" for name in _CONV_IN if name not in conv_in] + missing
    return OSEDiffWeights(
        unet_lora,
        vae_lora,
        conv_in,
        _rank(path, content, "rank_unet"),
        _rank(path, content, "rank_vae"),
        groups,
        vae_modules,
        {**DEFAULT_METADATA, "base": guess_base(unet_lora, conv_in)},
        str(path),
        [f"unet {name}" for name in missing] + [f"vae {name}" for name in vae_missing],
        [f"unet {name}" for name in unexpected] + [f"vae {name}" for name in vae_unexpected],
    )


def official_bytes(weights: OSEDiffWeights) -> bytes:
    if set(weights.conv_in) != set(_CONV_IN):
        raise CheckpointError(
            f"{weights.source} has no conv_in of its own, which the official format requires; "
            "write .safetensors instead."
        )
    for key in ("timestep", "prediction_type"):
        if weights.metadata.get(key, DEFAULT_METADATA[key]) != DEFAULT_METADATA[key]:
            raise CheckpointError(
                f"{weights.source} is for {key.replace('_', ' ')} {weights.metadata[key]}, but every reader of the "
                f"official format assumes {DEFAULT_METADATA[key]}; write .safetensors instead."
            )
    group_of, unet, vae = weights.group_of, {}, {}
    base = "conv_in.base_layer" if "conv_in" in weights.unet_lora else "conv_in"
    unet.update({f"{base}.{name}": weights.conv_in[name] for name in _CONV_IN})
    for module, pair in weights.unet_lora.items():
        for factor, tensor in zip("AB", pair, strict=True):
            unet[_official_key(module, factor, ADAPTER_OF_GROUP[group_of[module]])] = tensor
    for module, pair in weights.vae_lora.items():
        for factor, tensor in zip("AB", pair, strict=True):
            vae[_official_key(module, factor, VAE_ADAPTER)] = tensor
    content = {  # in the official order
        OFFICIAL_VAE_LIST: list(weights.vae_modules),
        **{key: list(weights.unet_groups[group]) for group, key in OFFICIAL_LISTS.items()},
        "rank_unet": weights.rank_unet,
        "rank_vae": weights.rank_vae,
        "state_dict_unet": unet,
        "state_dict_vae": vae,
    }
    # Through memory (the files are small): torch's own writer can abort the process when the disk is full.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# --- our format: unet.<module>.lora_A.weight, unet.conv_in.weight; lists and ranks as metadata ---


def from_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> OSEDiffWeights:
    version = metadata.get("version", "")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version or 'unknown'}, this program reads version "
            f"{FORMAT_VERSION}; update it or export the file again."
        )
    structure = (*_STRUCTURE, *(f"unet_{group}_modules" for group in ADAPTER_OF_GROUP))
    absent = [key for key in structure if key not in metadata]
    if absent:
        raise CheckpointError(f"{path} lacks the metadata {', '.join(absent)}; export it again.")
    groups = {group: _json_names(path, metadata, f"unet_{group}_modules") for group in ADAPTER_OF_GROUP}
    vae_modules = _json_names(path, metadata, "vae_modules")
    rest = dict(tensors)
    conv_in = {n: rest.pop(f"unet.conv_in.{n}") for n in _CONV_IN if f"unet.conv_in.{n}" in tensors}
    adapters = {f"unet.{module}": "" for modules in groups.values() for module in modules}
    adapters |= {f"vae.{module}": "" for module in vae_modules}
    pairs, missing, unexpected = _pairs(
        rest, adapters, lambda module, factor, _: f"{module}.lora_{factor}.weight"
    )
    if metadata["conv_in"] == "replaced":
        missing = [f"unet.conv_in.{name}" for name in _CONV_IN if name not in conv_in] + missing
    return OSEDiffWeights(
        _in_order(pairs, "unet.", _json_names(path, metadata, "unet_order")),
        _in_order(pairs, "vae.", _json_names(path, metadata, "vae_order")),
        conv_in,
        _rank(path, metadata, "rank_unet"),
        _rank(path, metadata, "rank_vae"),
        groups,
        vae_modules,
        {k: v for k, v in metadata.items() if k not in structure},
        str(path),
        missing,
        unexpected,
    )


def _in_order(pairs: Mapping[str, LoRAPair], part: str, names: list[str]) -> dict[str, LoRAPair]:
    """The pairs of one part in the recorded order, the state dict's: safetensors sorts its tensors."""
    own = {name.removeprefix(part): pair for name, pair in pairs.items() if name.startswith(part)}
    order = {name: i for i, name in enumerate(names)}
    return dict(sorted(own.items(), key=lambda item: order.get(item[0], len(order))))


def safetensors_bytes(weights: OSEDiffWeights) -> bytes:
    metadata = {
        **DEFAULT_METADATA,
        "base": guess_base(weights.unet_lora, weights.conv_in),
        **weights.metadata,
    }
    metadata |= {
        "format": "osediff",
        "version": FORMAT_VERSION,
        "conv_in": "replaced" if weights.conv_in else "base",
    }
    metadata |= {"rank_unet": str(weights.rank_unet), "rank_vae": str(weights.rank_vae)}
    metadata |= {
        f"unet_{group}_modules": json.dumps(weights.unet_groups[group]) for group in ADAPTER_OF_GROUP
    }
    metadata |= {"vae_modules": json.dumps(weights.vae_modules)}
    metadata |= {
        "unet_order": json.dumps(list(weights.unet_lora)),
        "vae_order": json.dumps(list(weights.vae_lora)),
    }
    return sorted_safetensors(weights.tensors(), metadata)


def sorted_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file. The library writes the metadata in random order; sorted, equal content gives equal bytes."""
    data = safetensors.torch.save(dict(tensors), {str(k): str(v) for k, v in metadata.items()})
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, memoryview(data)[8 + size :]))


# --- what both share ---


def _pairs(
    tensors: Mapping[str, Tensor], adapters: Mapping[str, str], key: Callable[[str, str, str], str]
) -> tuple[dict[str, LoRAPair], list[str], list[str]]:
    """(pairs in the tensors' order, missing names, unexpected names) for the modules that the lists name."""
    expected = {
        key(module, factor, adapter): module for module, adapter in adapters.items() for factor in "AB"
    }
    order = dict.fromkeys(expected[name] for name in tensors if name in expected)
    pairs = {}
    for module in order:
        a, b = (tensors.get(key(module, factor, adapters[module])) for factor in "AB")
        if a is not None and b is not None:
            pairs[module] = LoRAPair(a, b)
    return pairs, [n for n in expected if n not in tensors], [n for n in tensors if n not in expected]


def _names(path: Path, key: str, value: object) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path} has no list of module names in {key}; download or export it again.")
    return list(value)


def _json_names(path: Path, metadata: Mapping[str, str], key: str) -> list[str]:
    try:
        value = json.loads(metadata[key])
    except ValueError:
        value = None
    return _names(path, key, value)


def _state_dict(path: Path, key: str, value: object) -> dict[str, Tensor]:
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise CheckpointError(f"{path} has no tensors by name in {key}; download or export it again.")
    return {str(name): tensor for name, tensor in value.items()}


def _rank(path: Path, content: Mapping[str, Any], key: str) -> int:
    try:
        rank = int(content[key])
    except (TypeError, ValueError):
        rank = 0
    if rank < 1:
        raise CheckpointError(
            f"{path} has {key} {content[key]!r}, not a positive whole number; export it again."
        )
    return rank
