"""Weights as files that other programs load onto a base of theirs: the UNet's LoRA, and the VAE with its own merged."""

from __future__ import annotations

from pathlib import Path

import torch

from .backends.find_base import Source
from .backends.load_base import load_base
from .errors import CheckpointError
from .weights.fit import check_fits, layer_shapes
from .weights.lora_layouts import lora_bytes, write_vae
from .weights.merge import MergedAdapter
from .weights.one_step_weights import OneStepWeights
from .weights.write_file import stored_dtype, write_file


def export_lora(
    weights: OneStepWeights,
    output: Path,
    layout: str,
    base: str | Path | Source | None = None,
    *,
    vae: Path | None = None,
    dtype: torch.dtype | str | None = None,
) -> list[str]:
    """Write the UNet's LoRA to `output` in a layout of `lora_layouts.LAYOUTS`, and the merged VAE to `vae`, if given.

    base: as `load_base` takes it; needed where the weights replace conv_in, and for the VAE. dtype: of what is written;
    None is fp32. Sentences that a user should read are returned.
    Raises CheckpointError for weights that have no place in such a file, do not fit the base, or need one that is not
    given, and for files that cannot be written; BaseModelError for a base that cannot be used.
    """
    stored = stored_dtype(dtype)
    if base is None:
        if weights.conv_in or vae is not None:
            why = "the VAE is its own" if vae is not None else "they replace its conv_in"
            raise CheckpointError(
                f"{weights.source} needs the base that it is for, as {why}; give it as --base."
            )
        write_file(output, lora_bytes(weights, layout, {}, stored))
        return _left_out(weights, vae)
    loaded = load_base(base, None, "cpu", prediction_type=weights.prediction_type)
    unet, network = loaded.unet.module, loaded.vae.module
    check_fits(weights, layer_shapes(unet), layer_shapes(network))
    conv_in = dict(unet.conv_in.named_parameters())
    write_file(output, lora_bytes(weights, layout, conv_in, stored))
    if vae is not None:
        MergedAdapter(network, [weights.vae_lora], keep_base=False, dtype=torch.float32)
        write_vae(vae, network, stored)
    return _left_out(weights, vae)


def _left_out(weights: OneStepWeights, vae: Path | None) -> list[str]:
    if vae is not None or not weights.vae_lora:
        return []
    return [
        "The VAE's LoRA has no place in a LoRA file; --vae writes the VAE with it merged, to be loaded beside it."
    ]
