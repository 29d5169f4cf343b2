"""Loading: a base model and the weights of a one-step method become the parts of a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from .backends.find_base import Source, find_base
from .backends.light_decoder import use_decoder
from .backends.load_base import load_base
from .backends.networks import DiffusersUNet, DiffusersVAE
from .backends.speed import Speed, apply_speed
from .backends.text import ClipPromptEncoder
from .errors import BaseModelError, CheckpointError
from .method import Method
from .runtime.device import parse_device, parse_dtype
from .schedule import NoiseSchedule
from .weights.checkpoint import read_decoder, read_weights, weights_in
from .weights.formats import facts_of
from .weights.identify import identify
from .weights.merge import MergedAdapter, merge_weights
from .weights.one_step_weights import OneStepWeights
from .weights.tensor_file import TensorFile

_BASE_KINDS = ("sd_checkpoint", "diffusers_folder")  # of identify.Identity


class Parts(NamedTuple):
    """Parts of a generator, in the order of its arguments."""

    vae: DiffusersVAE
    unet: DiffusersUNet
    text: ClipPromptEncoder
    schedule: NoiseSchedule
    timestep: int
    adapters: dict[str, MergedAdapter]


def read_weights_for(
    base: str | Path,
    weights: str | Path | TensorFile | None,
    method: str | None,
    allow_download: bool,
    revision: str | None,
) -> tuple[Source, OneStepWeights, Method]:
    """Where the base is, the weights for it, and the facts of their method; as in `OneStepGenerator.load`."""
    source = find_base(base, allow_download, revision)
    with torch.inference_mode(False):  # what is loaded within an inference mode serves outside of it, too
        one_step = _weights_for(source, weights, method)
    if one_step.network:
        raise CheckpointError(
            f"{one_step.source} is a network of its own and not for a base; load it by osediff_core.load_model."
        )
    return source, one_step, facts_of(one_step.method)


@torch.inference_mode(False)
def load_parts(
    source: Source,
    one_step: OneStepWeights,
    *,
    dtype: str | torch.dtype,
    device: str | torch.device,
    strength: tuple[float, float],
    keep_base: bool,
    decoder: str | Path | None,
    speed: Speed | None,
) -> Parts:
    """Arguments and errors as in `OneStepGenerator.load`; strength is (unet, vae)."""
    device = parse_device(device)
    dtype = parse_dtype(dtype, device)
    loaded = load_base(source, None, "cpu", prediction_type=one_step.prediction_type)
    _check_timestep(one_step, loaded.schedule)
    if decoder is not None:
        use_decoder(loaded.vae, read_decoder(decoder))
    unet, vae = merge_weights(
        one_step,
        loaded.unet.module,
        loaded.vae.module,
        strength=strength,
        keep_base=keep_base,
        dtype=dtype,
    )
    for part in (loaded.unet, loaded.vae, loaded.text):
        part.to(device, dtype)
    apply_speed(speed or Speed(), loaded.unet.module, loaded.vae.module, dtype, device)
    adapters = {"unet": unet, "vae": vae}
    schedule = replace(loaded.schedule, prediction_type=one_step.rule)
    return Parts(loaded.vae, loaded.unet, loaded.text, schedule, one_step.timestep, adapters)


def _weights_for(source: Source, given: str | Path | TensorFile | None, method: str | None) -> OneStepWeights:
    """The given weights, or those that lie beside the base."""
    given = given if given is not None else source.default_weights
    if given is None:
        identity = identify(source.path)
        # then the base is the mistake, not the missing weights
        if identity.kind not in _BASE_KINDS or identity.details.get("family", "sd2") != "sd2":
            raise BaseModelError(f"The base {source.name} is {identity.what}; {identity.use}.")
        raise CheckpointError(
            f"The base {source.name} brings no OSEDiff weights of its own; give some (--weights), for "
            "example the official osediff.pkl."
        )
    return weights_in(given, method) if isinstance(given, TensorFile) else read_weights(given, method)


def _check_timestep(weights: OneStepWeights, schedule: NoiseSchedule) -> None:
    if weights.timestep >= schedule.num_timesteps:
        raise CheckpointError(
            f"{weights.source} is for timestep {weights.timestep}, but the base's schedule ends at "
            f"{schedule.num_timesteps - 1}; use weights and a base that belong together."
        )
