"""A file or model folder as plain facts, for `osediff info`."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from .checkpoint import weights_in
from .formats import facts_of
from .identify import identify, identify_file
from .one_step_weights import OneStepWeights
from .tensor_file import TensorFile, has_adapters, shapes_of


def describe(path: str | os.PathLike[str], method: str | None = None) -> dict[str, Any]:
    """JSON-ready facts: path, kind, what, use, container, details, bytes; for files tensors, parameters, dtypes.

    For one-step weights `method` holds the facts of their method, and `weights` ranks, scales, adapted modules by
    group, conv_in, metadata, missing, unexpected. method: as in `read_weights`. Raises CheckpointError as `identify`
    and `checkpoint.read_weights` do.
    """
    path = Path(path)
    file = None if os.path.isdir(path) and not has_adapters(path) else TensorFile.open(path)
    identity = identify(path) if file is None else identify_file(file)
    facts: dict[str, Any] = {
        "path": str(path),
        "kind": identity.kind,
        "what": identity.what,
        "use": identity.use,
        "container": identity.container,
        "details": identity.details,
    }
    facts["bytes"] = sum(part.stat().st_size for part in [path, *path.rglob("*")] if part.is_file())
    if file is None:
        return facts
    shapes, dtypes = file.shapes, file.dtypes
    if identity.is_weights or method is not None:
        weights = weights_in(file, method)
        tensors = weights.tensors()  # wherever the format keeps them
        shapes = shapes_of(tensors)
        dtypes = {
            name: dtypes.get(name, str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        }
        facts["method"] = _method(weights)
        facts["weights"] = _weights(weights)
    return facts | {
        "tensors": len(shapes),
        "parameters": sum(map(math.prod, shapes.values())),
        "dtypes": dict(Counter(dtypes.values())),
    }


def _method(weights: OneStepWeights) -> dict[str, Any]:
    about = facts_of(weights.method)
    return {
        "name": weights.method,
        "title": about.title,
        "base": weights.metadata.get("base", "unknown"),
        "timestep": None if weights.network else weights.timestep,
        "sliders": {s.name: f"{s.meaning} (default {s.default:g})" for s in about.sliders},
        "prompt": about.prompt,
        "color_fix": about.color_fix,
        "licence": about.licence,
        "source": about.source,
        **({"advice": about.advice} if about.advice else {}),
    }


def _weights(weights: OneStepWeights) -> dict[str, Any]:
    sets = {"_".join(filter(None, ("unet", lora.name))): lora for lora in weights.unet_sets}
    if weights.vae_lora or weights.vae_modules:
        sets["vae"] = weights.vae_lora
    if weights.network:
        return {"network": sum(tensor.numel() for tensor in weights.network.values())}
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
