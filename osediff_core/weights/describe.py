"""What is in a file or model folder, as plain data for `osediff info`."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from .checkpoint import read_weights
from .identify import identify
from .merge import lora_scale
from .one_step_weights import ADAPTER_OF_GROUP, OSEDiffWeights
from .tensor_file import load_torch, safetensors_header, shapes_of, tensor_dict


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """JSON-ready facts: path, kind, what, use, container, details, bytes; for files tensors, parameters, dtypes.

    For OSEDiff weights `weights` holds ranks, scales, adapted modules by group, conv_in, metadata, missing,
    unexpected. Raises CheckpointError as `identify` and `read_weights` do.
    """
    path = Path(path)
    identity = identify(path)
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": identity.kind,
        "what": identity.what,
        "use": identity.use,
        "container": identity.container,
        "details": identity.details,
    }
    if identity.container == "folder":
        facts["bytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return facts
    facts["bytes"] = path.stat().st_size
    if identity.kind == "osediff":
        weights = read_weights(path)
        shapes = shapes_of(weights.tensors())
        dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.tensors().values())
        facts["weights"] = _weights(weights)
    elif identity.container == "safetensors":
        shapes, names, _ = safetensors_header(path)
        dtypes = Counter(_DTYPES.get(name, name) for name in names.values())
    else:
        tensors = tensor_dict(load_torch(path, mmap=identity.container == "torch-zip"))
        shapes = shapes_of(tensors)
        dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return facts | {
        "tensors": len(shapes),
        "parameters": sum(map(math.prod, shapes.values())),
        "dtypes": dict(dtypes),
    }


_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}


def _weights(weights: OSEDiffWeights) -> dict[str, Any]:
    return {
        "rank_unet": weights.rank_unet,
        "rank_vae": weights.rank_vae,
        "scale_unet": lora_scale(weights.rank_unet),
        "scale_vae": lora_scale(weights.rank_vae),
        "unet_modules": {group: len(weights.unet_groups[group]) for group in ADAPTER_OF_GROUP},
        "vae_modules": len(weights.vae_lora),
        "conv_in": bool(weights.conv_in),
        "base": weights.metadata.get("base", "unknown"),
        "timestep": weights.timestep,
        "prediction_type": weights.prediction_type,
        "metadata": dict(weights.metadata),
        "missing": list(weights.missing),
        "unexpected": list(weights.unexpected),
    }
