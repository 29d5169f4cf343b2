"""One-step weights from a file and into one, in the formats of the table `formats.FORMATS`; light decoders."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, amount, some_of
from .decoder_file import DecoderWeights, decoder_in, decoder_kind
from .formats import facts_of, format_of, writers
from .identify import identify, identify_file
from .one_step_weights import OneStepWeights, common_rank
from .quantised import plain
from .tensor_file import TensorFile, has_adapters
from .write_file import stored_dtype, write_file

_DECODERS = "AdcSR's halfDecoder.ckpt, VOSR's sd21_lwdecoder.pth or TAESD's decoder"
_DIGITS = 9  # of a timestep; more would be a number that Python does not read


def read_weights(path: str | os.PathLike[str], method: str | None = None) -> OneStepWeights:
    """One-step weights, on the CPU and in memory of their own, from a file or folder of any known format.

    method: the name of the method, where the content alone does not say it (`formats.methods`).

    Code in a pickle is never run. Tensors that the file's own lists promise or do not know are kept in
    `missing` and `unexpected` for `fit.check_fits`, which reports them with everything that does not fit the
    base. Raises CheckpointError, one sentence, for a file that is missing, empty, damaged, of another model,
    holds code or non-finite values, or contradicts itself about its ranks; OptionError for an unknown method.
    """
    path = Path(path)
    if os.path.isdir(path) and not has_adapters(path):
        identity = identify(path)
        raise CheckpointError(f"{path} is {identity.what}, not OSEDiff weights; {identity.use}.")
    return weights_in(TensorFile.open(path), method)


def weights_in(file: TensorFile, method: str | None = None) -> OneStepWeights:
    """The one-step weights in an opened file; as `read_weights`."""
    known = format_of(file, method)
    if known is None:
        identity = identify_file(file)
        if method is not None:
            remedy = "leave out the method" if identity.is_weights else identity.use
            raise CheckpointError(
                f"{file.path} is {identity.what}, not weights of the method {method}; {remedy}."
            )
        raise CheckpointError(f"{file.path} is {identity.what}, not OSEDiff weights; {identity.use}.")
    file.check_sizes()
    weights = known.read(file).map(lambda _, tensor: plain(tensor))
    _check_metadata(weights)
    _check_finite(weights)
    _check_ranks(weights)
    return weights.map(lambda _, tensor: tensor.detach().clone())  # the file may be replaced meanwhile


def read_decoder(path: str | os.PathLike[str]) -> DecoderWeights:
    """The light decoder in a file, its tensors mapped. Raises CheckpointError for any other file."""
    file = TensorFile.open(Path(path), _DECODERS)
    kind = decoder_kind(file)
    if kind is None:
        raise CheckpointError(f"{path} is {identify_file(file).what}, not a light decoder; give {_DECODERS}.")
    if kind == "":
        raise CheckpointError(
            f"{path} is a light decoder that does not say whose it is, AdcSR's or VOSR's; give the published file, "
            "halfDecoder.ckpt or sd21_lwdecoder.pth."
        )
    return decoder_in(file, kind)


def write_weights(
    path: str | os.PathLike[str], weights: OneStepWeights, dtype: torch.dtype | str | None = None
) -> None:
    """Write the format that the path's suffix asks for: ours, .safetensors, or exactly the official .pkl of OSEDiff and
    PiSA-SR.

    Whole or not at all. `dtype` ("fp32", "fp16", "bf16" or torch's) casts the tensors; None keeps each as it is. Raises
    CheckpointError for another suffix, incomplete weights, weights that the format cannot describe, values that
    overflow `dtype`, or a folder or disk that does not take the file; OptionError for another dtype.
    """
    path, by_suffix = Path(path), writers(weights.method)
    write = by_suffix.get(path.suffix.lower())
    if not by_suffix:
        raise CheckpointError(
            f"Weights of the method {weights.method} cannot be written; keep their own file."
        )
    if write is None:
        raise CheckpointError(
            f"{path} does not say which format to write; name it {' or '.join(by_suffix)} for weights of "
            f"{facts_of(weights.method).title}."
        )
    if os.path.isdir(path):
        raise CheckpointError(f"{path} is a folder; give the name of a file.")
    gaps = {"missing": weights.missing, "unexpected": weights.unexpected}
    if any(gaps.values()):
        report = "; ".join(
            f"{len(names)} {kind}: {', '.join(names)}" for kind, names in gaps.items() if names
        )
        raise CheckpointError(f"{weights.source} is not written, as it is not whole: {report}.")
    _check_metadata(weights)
    _check_ranks(weights)
    write_file(path, write(_cast(weights, stored_dtype(dtype))))


def _check_metadata(weights: OneStepWeights) -> None:
    if weights.network:  # no base, no schedule
        return
    timestep = weights.metadata.get("timestep", "")
    if not (timestep.isascii() and timestep.isdigit() and len(timestep) <= _DIGITS):
        raise CheckpointError(
            f"{weights.source} has the timestep {timestep!r:.60}, not a whole number; export it again."
        )
    if weights.prediction_type not in ("epsilon", "v_prediction"):
        raise CheckpointError(
            f"{weights.source} has the prediction type {weights.prediction_type!r:.60}; "
            "only epsilon and v_prediction are known."
        )
    if weights.rule not in (weights.prediction_type, "residual"):
        raise CheckpointError(
            f"{weights.source} has the rule {weights.rule!r:.60}; only {weights.prediction_type} and residual are "
            "known for what its base predicts."
        )


def _check_finite(weights: OneStepWeights) -> None:
    tensors = weights.tensors()
    strange = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if strange:
        raise CheckpointError(
            f"{weights.source} has tensors that are not floats ({some_of(strange)}); export it again."
        )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{weights.source} holds NaN or infinite values in {amount(len(broken), 'tensor')} "
            f"({some_of(broken)}); use another copy or an earlier save."
        )


def _check_ranks(weights: OneStepWeights) -> None:
    for part, lora in (*(("UNet", lora) for lora in weights.unet_sets), ("VAE", weights.vae_lora)):
        found = common_rank(lora)
        if found is not None and found != lora.rank:
            raise CheckpointError(
                f"{weights.source} says that the {part}'s LoRA has rank {lora.rank}, but its tensors have "
                f"rank {found}; export it again."
            )


def _cast(weights: OneStepWeights, dtype: torch.dtype | None) -> OneStepWeights:
    """A copy with own, contiguous CPU tensors (views would drag their whole storage into a .pkl)."""

    def cast(name: str, tensor: Tensor) -> Tensor:
        out = tensor.detach().to("cpu", dtype or tensor.dtype, copy=True).contiguous()
        if not torch.isfinite(out).all():
            raise CheckpointError(
                f"{weights.source} is not written: {name} is NaN, infinite or too large for "
                f"{out.dtype}; use fp32 or bf16, or an earlier save."
            )
        return out

    return weights.map(cast)
