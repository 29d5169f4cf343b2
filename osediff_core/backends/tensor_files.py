"""Weight files as dictionaries of memory-mapped tensors: opening gigabytes costs neither time nor memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import BaseModelError, CheckpointError
from ..weights.identify import Identity, identify_content, identify_tensors
from ..weights.tensor_file import container_of, load_torch, read_safetensors, shapes_of, tensor_dict

Tensors = dict[str, Tensor]

_REMEDY = (
    "get the base model again, or give another one as a .safetensors or .ckpt file or a diffusers folder."
)


def read_tensors(path: Path) -> Tensors:
    """All tensors of a .safetensors or torch file by name, on the CPU and mapped from the file.

    No code in a file is ever run. Lightning's {"state_dict": …} is unwrapped.
    Raises BaseModelError for a missing, empty, damaged, unsafe or foreign file.
    """
    return read_identified(path)[0]


def read_identified(path: Path) -> tuple[Tensors, Identity]:
    """What `read_tensors` gives, and what they are."""
    try:
        container = container_of(path)
        if container == "safetensors":
            tensors, metadata = read_safetensors(path)
            identity = identify_tensors(shapes_of(tensors), container, metadata, tensors.__getitem__)
        else:
            # Only the zip format of torch.save can be mapped; files older than 2020 are read whole.
            content = load_torch(path, mmap=container == "torch-zip")
            tensors, identity = tensor_dict(content), identify_content(content, container)
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
            if path.is_file():
                return read_tensors(path)
            index = folder / f"{name}.{suffix}.index{variant}.json"
            if index.is_file():
                weight_map = read_json(index).get("weight_map")
                if not isinstance(weight_map, dict):
                    raise BaseModelError(f"The file {index} names no shards; complete the model's folder.")
                shards = sorted(set(map(str, weight_map.values())))
                return {k: v for shard in shards for k, v in read_tensors(folder / shard).items()}
    raise BaseModelError(f"The folder {folder} has no weights ({stem}.safetensors); complete the download.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BaseModelError if it is missing or broken."""
    try:
        with open(path, encoding="utf-8") as handle:
            data = json.load(handle)
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"The file {path} is missing or no JSON; complete the model's folder."
        ) from error
    if not isinstance(data, dict):
        raise BaseModelError(f"The file {path} does not hold a JSON object; complete the model's folder.")
    return data
