"""A base model as it lies on disk: configs and mapped tensors of its parts, before any network is built.

Opening gigabytes costs neither time nor memory: tensors are mapped from their files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BaseModelError, CheckpointError
from ..weights.identify import Identity, identify_file
from ..weights.tensor_file import TensorFile, Tensors
from .base_configs import read_configs, read_json
from .config_rules import PARTS
from .find_base import Source
from .single_file import split_single_file

SD21_BASE = Path(__file__).parent / "sd21_base"

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_REMEDY = (
    "get the base model again, or give another one as a .safetensors or .ckpt file or a diffusers folder."
)


@dataclass
class RawBase:
    """configs, tensors: by part. tokenizer: its folder. scheduler: its config."""

    configs: dict[str, dict[str, Any]]
    tensors: dict[str, Tensors]
    tokenizer: Path
    scheduler: dict[str, Any]


def read_raw(source: Source, configs: Path = SD21_BASE) -> RawBase:
    """Read a diffusers folder or a single-file checkpoint.

    configs: for a single file, which holds tensors only, the folder with the configs, the tokenizer and the
    schedule of its model (SD 2.1-base by default). Raises BaseModelError.
    """
    whole = os.path.isfile(source.path)
    folder = configs if whole else source.path
    configs_of = read_configs(folder)
    if whole:
        tensors = split_single_file(*_read_identified(source.path), configs_of.parts, source.name)
    else:
        tensors = {part: read_part(folder / part, _STEMS[part]) for part in PARTS}
    return RawBase(configs_of.parts, tensors, folder / "tokenizer", configs_of.scheduler)


def read_tensors(path: Path) -> Tensors:
    """All tensors of a .safetensors or torch file by name, on the CPU and mapped from the file.

    No code in a file is ever run. Lightning's {"state_dict": …} is unwrapped.
    Raises BaseModelError for a missing, empty, damaged, unsafe or foreign file.
    """
    return _read_identified(path)[0]


def _read_identified(path: Path) -> tuple[Tensors, Identity]:
    try:
        file = TensorFile.open(path)
        tensors, identity = file.tensors(), identify_file(file)
    except CheckpointError as error:
        finding = str(error).partition(";")[0].rstrip(".")
        raise BaseModelError(f"{finding}; {_REMEDY}") from error
    if not tensors:
        raise BaseModelError(f"{path} holds no tensors; {_REMEDY}")
    return tensors, identity


def read_part(folder: Path, stem: str) -> Tensors:
    """The tensors of one part of a diffusers folder, whole or in shards.

    stem: "diffusion_pytorch_model" or "model". Full precision is taken before the fp16 variant, and
    safetensors before torch files. Raises BaseModelError if there is none.
    """
    torch_stem = "pytorch_model" if stem == "model" else stem
    for variant in ("", ".fp16"):
        for name, suffix in ((stem, "safetensors"), (torch_stem, "bin")):
            path = folder / f"{name}{variant}.{suffix}"
            if os.path.isfile(path):
                return read_tensors(path)
            index = folder / f"{name}.{suffix}.index{variant}.json"
            if os.path.isfile(index):
                return {k: v for shard in _shards(index) for k, v in read_tensors(shard).items()}
    raise BaseModelError(f"The folder {folder} has no weights ({stem}.safetensors); complete the download.")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each of which is one of the model's own. Raises BaseModelError."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BaseModelError(f"The file {index} names no shards; complete the model's folder.")
    shards = {name: None for name in weight_map.values() if isinstance(name, str)}
    strange = [name for name in weight_map.values() if not isinstance(name, str) or not _is_file_name(name)]
    # what a link in the folder leads to may be any file of this disk, but for the hub's cache, which keeps files so
    model = index.parent.parent.resolve()
    within = [model, model.parent.parent / "blobs"] if model.parent.name == "snapshots" else [model]
    strange += [
        name
        for name in shards
        if _is_file_name(name)
        and not any((index.parent / name).resolve().is_relative_to(place) for place in within)
    ]
    if strange:
        raise BaseModelError(
            f"The file {index} names {strange[0]!r:.200}, which is no file of the model's folder, so nothing was read; "
            "complete the model's folder with its own files."
        )
    return [index.parent / name for name in sorted(shards)]


def _is_file_name(name: str) -> bool:
    """Whether it is a plain one on every system: no folder, drive or stream, nothing that a system cannot have."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0") and len(name) < 256
