"""Our .safetensors of OSEDiff's weights: tensors "unet.<module>.lora_A.weight", lists and ranks as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...documents import parse_json
from ...errors import CheckpointError
from ..one_step_weights import LoRAPair, OneStepWeights
from ..tensor_file import TensorFile
from ..write_file import sorted_safetensors
from . import osediff
from .format import Format
from .osediff import ADAPTER_OF_GROUP, CONV_IN, DEFAULT_METADATA

_VERSION = DEFAULT_METADATA["version"]
_GROUP_LISTS = {group: f"unet_{group}_modules" for group in ADAPTER_OF_GROUP}
# metadata that say what the tensors are; the others are a writer's own
_STRUCTURE = (
    "rank_unet",
    "rank_vae",
    "conv_in",
    "vae_modules",
    "unet_order",
    "vae_order",
    *_GROUP_LISTS.values(),
)


def recognise(file: TensorFile) -> bool:
    """By its metadata."""
    return file.metadata.get("format") == DEFAULT_METADATA["format"]


def read(file: TensorFile) -> OneStepWeights:
    """The weights; tensors against the file's own lists are kept in `missing` and `unexpected`."""
    path, metadata = file.path, file.metadata
    version = metadata.get("version", "unknown")
    if version != _VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this program reads version {_VERSION}; update it or export the "
            "file again."
        )
    absent = [key for key in _STRUCTURE if key not in metadata]
    if absent:
        raise CheckpointError(f"{path} lacks the metadata {', '.join(absent)}; export it again.")
    groups = {group: _listed(file, key) for group, key in _GROUP_LISTS.items()}
    vae_modules = _listed(file, "vae_modules")
    rest = file.tensors()
    conv_in = {n: rest.pop(f"unet.conv_in.{n}") for n in CONV_IN if f"unet.conv_in.{n}" in rest}
    adapters = {f"unet.{module}": "" for modules in groups.values() for module in modules}
    adapters |= {f"vae.{module}": "" for module in vae_modules}
    pairs, missing, unexpected = osediff.pairs(
        rest, adapters, lambda module, factor, _: f"{module}.lora_{factor}.weight"
    )
    if metadata["conv_in"] == "replaced":
        missing = [f"unet.conv_in.{name}" for name in CONV_IN if name not in conv_in] + missing
    of_unet = _in_order(pairs, "unet.", _listed(file, "unet_order"))
    of_vae = _in_order(pairs, "vae.", _listed(file, "vae_order"))
    return OneStepWeights(
        osediff.METHOD,
        (osediff.lora(of_unet, osediff.rank(path, metadata, "rank_unet")),),
        osediff.lora(of_vae, osediff.rank(path, metadata, "rank_vae")),
        conv_in,
        {**DEFAULT_METADATA, **{key: text for key, text in metadata.items() if key not in _STRUCTURE}},
        str(path),
        missing,
        unexpected,
        groups,
        vae_modules,
    )


def write(weights: OneStepWeights) -> bytes:
    """Raises CheckpointError for weights that its readers would misunderstand."""
    osediff.check_writable(weights)
    metadata = {
        **DEFAULT_METADATA,
        "base": osediff.guess_base(weights.unet_lora, weights.conv_in),
        **weights.metadata,
        "format": DEFAULT_METADATA["format"],
        "version": _VERSION,
        "conv_in": "replaced" if weights.conv_in else "base",
        "rank_unet": str(weights.rank_unet),
        "rank_vae": str(weights.rank_vae),
        **{key: json.dumps(weights.unet_groups[group]) for group, key in _GROUP_LISTS.items()},
        "vae_modules": json.dumps(weights.vae_modules),
        "unet_order": json.dumps(list(weights.unet_lora)),
        "vae_order": json.dumps(list(weights.vae_lora)),
    }
    return sorted_safetensors(weights.tensors(), metadata)


def _in_order(pairs: Mapping[str, LoRAPair], part: str, names: list[str]) -> dict[str, LoRAPair]:
    """The pairs of one part in the recorded order, the state dict's: safetensors sorts its tensors."""
    own = {name.removeprefix(part): pair for name, pair in pairs.items() if name.startswith(part)}
    order = {name: i for i, name in enumerate(names)}
    return dict(sorted(own.items(), key=lambda item: order.get(item[0], len(order))))


def _listed(file: TensorFile, key: str) -> list[str]:
    try:
        value = parse_json(file.metadata[key])
    except ValueError:
        value = None
    return osediff.module_names(file.path, key, value)


FORMAT = Format(osediff.METHOD, "OSEDiff weights", recognise, read, write, ".safetensors", osediff.ABOUT)
