"""Reading and writing OSEDiff weights: the official .pkl and our .safetensors, both ways without loss."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import write_bytes_atomically
from ..errors import CheckpointError, OptionError
from ..runtime.device import DTYPES
from .formats import from_official, from_safetensors, official_bytes, safetensors_bytes
from .identify import Identity, identify, identify_content, identify_tensors, is_official
from .one_step_weights import DEFAULT_METADATA, LoRAPair, OSEDiffWeights, common_rank
from .tensor_file import container_of, load_torch, read_safetensors, shapes_of

__all__ = ["Identity", "LoRAPair", "OSEDiffWeights", "identify", "read_weights", "write_weights"]


def read_weights(path: str | os.PathLike[str]) -> OSEDiffWeights:
    """OSEDiff weights, on the CPU, from an official checkpoint or our .safetensors, whichever the content is.

    Code in a pickle is never run. Tensors that the file's own lists promise or do not know are kept in
    `missing` and `unexpected` for `lora.check_fits`, which reports them with everything that does not fit the
    base. Raises CheckpointError, one sentence, for a file that is missing, empty, damaged, of another model,
    holds code or non-finite values, or contradicts itself about its ranks.
    """
    path = Path(path)
    container = container_of(path)
    if container == "safetensors":
        tensors, metadata = read_safetensors(path)
        if metadata.get("format") != "osediff":
            raise _not_ours(
                path, identify_tensors(shapes_of(tensors), container, metadata, tensors.__getitem__)
            )
        weights = from_safetensors(path, tensors, metadata)
    else:
        content = load_torch(path)
        if not is_official(content):
            raise _not_ours(path, identify_content(content, container))
        weights = from_official(path, content)
    _check_metadata(weights)
    _check_finite(weights)
    _check_ranks(weights)
    return weights


def write_weights(
    path: str | os.PathLike[str], weights: OSEDiffWeights, dtype: torch.dtype | str | None = None
) -> None:
    """Write our format to a .safetensors path, or exactly the official one to a .pkl path; whole or not at all.

    `dtype` ("fp32", "fp16", "bf16" or torch's) casts the tensors; None keeps each as it is. Raises
    CheckpointError for another suffix, incomplete weights, weights that a .pkl cannot describe, values that overflow
    `dtype`, or a folder or disk that does not take the file; OptionError for another dtype.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix not in (".safetensors", ".pkl"):
        raise CheckpointError(f"{path} does not say which format to write; name it .safetensors or .pkl.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the name of a file.")
    if weights.missing or weights.unexpected:
        raise CheckpointError(
            f"{weights.source} is not written, as it is not whole: {contradictions(weights)}."
        )
    _check_lists(weights)
    _check_metadata(weights)
    _check_ranks(weights)
    weights = _cast(weights, dtype)
    write_file(path, official_bytes(weights) if suffix == ".pkl" else safetensors_bytes(weights))


def write_file(path: Path, data: bytes) -> None:
    """Write a file of weights, whole or not at all. Raises CheckpointError if folder or disk do not take it."""
    try:
        write_bytes_atomically(path, data)
    except OSError as error:
        remedy = "choose another folder or free space" if path.parent.is_dir() else "create its folder first"
        raise CheckpointError(f"{path} cannot be written ({error.strerror or error}); {remedy}.") from error


def contradictions(weights: OSEDiffWeights) -> str:
    """By name, the tensors that the file's lists promise and it lacks, and those it holds beside them."""
    parts = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (("missing", weights.missing), ("unexpected", weights.unexpected))
        if names
    ]
    return "; ".join(parts)


def _not_ours(path: Path, identity: Identity) -> CheckpointError:
    return CheckpointError(f"{path} is {identity.what}, not OSEDiff weights; {identity.use}.")


def _check_lists(weights: OSEDiffWeights) -> None:
    """The lists say which adapter a module belongs to: lists and tensors must name the same modules."""
    listed = {f"unet {name}" for name in weights.group_of} | {f"vae {name}" for name in weights.vae_modules}
    held = {f"unet {name}" for name in weights.unet_lora} | {f"vae {name}" for name in weights.vae_lora}
    if listed != held:
        raise CheckpointError(
            f"{weights.source} is not written, as its lists and its LoRA name different modules: "
            f"{', '.join(sorted(listed ^ held))}."
        )


def _check_metadata(weights: OSEDiffWeights) -> None:
    timestep = weights.metadata.get("timestep", DEFAULT_METADATA["timestep"])
    if not (timestep.isascii() and timestep.isdigit()):
        raise CheckpointError(
            f"{weights.source} has the timestep {timestep!r}, not a whole number; export it again."
        )
    if weights.prediction_type not in ("epsilon", "v_prediction"):
        raise CheckpointError(
            f"{weights.source} has the prediction type {weights.prediction_type!r}; "
            "only epsilon and v_prediction are known."
        )


def _check_finite(weights: OSEDiffWeights) -> None:
    tensors = weights.tensors()
    strange = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if strange:
        raise CheckpointError(
            f"{weights.source} has tensors that are not floats ({', '.join(strange)}); export it again."
        )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{weights.source} holds NaN or infinite values in {len(broken)} tensors "
            f"({', '.join(broken)}); use another copy or an earlier save."
        )


def _check_ranks(weights: OSEDiffWeights) -> None:
    for part, pairs, stored in (
        ("UNet", weights.unet_lora, weights.rank_unet),
        ("VAE", weights.vae_lora, weights.rank_vae),
    ):
        found = common_rank(pairs)
        if found is not None and found != stored:
            raise CheckpointError(
                f"{weights.source} says that the {part}'s LoRA has rank {stored}, but its tensors have "
                f"rank {found}; export it again."
            )


def _cast(weights: OSEDiffWeights, dtype: torch.dtype | str | None) -> OSEDiffWeights:
    """A copy with own, contiguous CPU tensors (views would drag their whole storage into a .pkl)."""
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise OptionError(f"The dtype {dtype!r} is not known; use {', '.join(DTYPES)}.")
        dtype = DTYPES[dtype]
    if dtype is not None and dtype not in DTYPES.values():
        raise OptionError(f"Weights are not saved as {dtype}; use {', '.join(DTYPES)}.")

    def cast(name: str, tensor: Tensor) -> Tensor:
        out = tensor.detach().to("cpu", dtype or tensor.dtype, copy=True).contiguous()
        if not torch.isfinite(out).all():
            raise CheckpointError(
                f"{weights.source} is not written: {name} is NaN, infinite or too large for "
                f"{out.dtype}; use fp32 or bf16, or an earlier save."
            )
        return out

    def pairs(part: str, lora: Mapping[str, LoRAPair]) -> dict[str, LoRAPair]:
        return {m: LoRAPair(cast(f"{part} {m} A", p.A), cast(f"{part} {m} B", p.B)) for m, p in lora.items()}

    return OSEDiffWeights(
        pairs("unet", weights.unet_lora),
        pairs("vae", weights.vae_lora),
        {name: cast(f"conv_in {name}", tensor) for name, tensor in weights.conv_in.items()},
        weights.rank_unet,
        weights.rank_vae,
        weights.unet_groups,
        weights.vae_modules,
        weights.metadata,
        weights.source,
    )
