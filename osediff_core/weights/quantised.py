"""Tensors in 8 bits of floating point, plain or with ComfyUI's scales, as the values that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError

# Beside the weight W of a layer: W = scale * stored. First how ComfyUI called it until 2025, then since.
_SCALES = ("scale_weight", "weight_scale")
# For the product with quantised activations, or to say what the others already say.
_ASIDE = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")
# Of layouts with blocks, codes or rotations, by various programs.
_OTHERS = (
    "weight_scale_2",
    "weight_scale_inv",
    "pre_quant_scale",
    "absmax",
    "quant_map",
    "qweight",
    "qzeros",
    "SCB",
    "_data",
)


def is_fp8(dtype: str) -> bool:
    """Whether a type, by torch's name or safetensors', is a number of 8 bits with a point."""
    return dtype.lower().startswith(("float8", "f8_"))


def is_extra(name: str) -> bool:
    """Whether a tensor only says how another one is to be read."""
    return name.rpartition(".")[2] in (*_SCALES, *_ASIDE)


def is_quantised(dtypes: Mapping[str, str]) -> bool:
    """Whether some tensors of a file, by name and type, are not the values themselves."""
    return any(
        is_fp8(dtype) or is_extra(name) or name.rpartition(".")[2] in _OTHERS
        for name, dtype in dtypes.items()
    )


def plain(tensor: Tensor) -> Tensor:
    """fp8 as fp16, which holds all of its values; any other tensor as it is."""
    return tensor.to(torch.float16) if is_fp8(str(tensor.dtype).removeprefix("torch.")) else tensor


def restored(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values: of fp8 in fp16, or in fp32 where a scale is multiplied; other tensors as they are.

    Raises CheckpointError for other layouts.
    """
    return {name: _value(path, name, tensors) for name in tensors if not is_extra(name)}


def _value(path: Path, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    tensor = tensors[name]
    layer, _, last = name.rpartition(".")
    scale = next((tensors[key] for kind in _SCALES if (key := f"{layer}.{kind}") in tensors), None)
    fp8 = is_fp8(str(tensor.dtype).removeprefix("torch."))
    if last in _OTHERS or (last == "weight" and scale is not None and not fp8):
        raise _unknown(path, name)
    if not fp8 or last != "weight" or scale is None:
        return plain(tensor)
    if scale.numel() == 1:
        factor = scale.float().reshape(())
    elif scale.numel() == scale.shape[0] == tensor.shape[0]:  # one for each output
        factor = scale.float().reshape(-1, *[1] * (tensor.dim() - 1))
    else:
        raise _unknown(path, name)
    return tensor.float() * factor


def _unknown(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is quantised in a way that is not read here ({name}); use a copy in fp16, bf16 or fp32."
    )
