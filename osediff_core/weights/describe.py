"""A file or model folder as plain facts, for `osediff info`."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from .checkpoint import weights_in
from .identify import identify, identify_file
from .one_step_weights import OneStepWeights
from .tensor_file import TensorFile, shapes_of


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """JSON-ready facts: path, kind, what, use, container, details, bytes; for files tensors, parameters, dtypes.

    For one-step weights `weights` holds ranks, scales, adapted modules by group, conv_in, metadata, missing,
    unexpected. Raises CheckpointError as `identify` and `checkpoint.read_weights` do.
    """
    path = Path(path)
    file = None if path.is_dir() else TensorFile.open(path)
    identity = identify(path) if file is None else identify_file(file)
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": identity.kind,
        "what": identity.what,
        "use": identity.use,
        "container": identity.container,
        "details": identity.details,
    }
    if file is None:
        facts["bytes"] = sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
        return facts
    facts["bytes"] = path.stat().st_size
    shapes, dtypes = file.shapes, file.dtypes
    if identity.is_weights:
        weights = weights_in(file)
        tensors = weights.tensors()  # wherever the format keeps them
        shapes = shapes_of(tensors)
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
        facts["weights"] = _weights(weights)
    return facts | {
        "tensors": len(shapes),
        "parameters": sum(map(math.prod, shapes.values())),
        "dtypes": dict(Counter(dtypes.values())),
    }


def _weights(weights: OneStepWeights) -> dict[str, Any]:
    sets = {"_".join(filter(None, ("unet", lora.name))): lora for lora in weights.unet_sets}
    sets["vae"] = weights.vae_lora
    by_group = {group: len(modules) for group, modules in weights.unet_groups.items()}
    return {
        **{f"rank_{name}": lora.rank for name, lora in sets.items()},
        **{f"scale_{name}": lora.scale for name, lora in sets.items()},
        "unet_modules": by_group or sum(map(len, weights.unet_sets)),
        "vae_modules": len(weights.vae_lora),
        "conv_in": bool(weights.conv_in),
        "base": weights.metadata.get("base", "unknown"),
        "timestep": weights.timestep,
        "prediction_type": weights.prediction_type,
        "rule": weights.rule,
        "metadata": dict(weights.metadata),
        "missing": list(weights.missing),
        "unexpected": list(weights.unexpected),
    }
