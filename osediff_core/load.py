"""Loading: a base model and the weights of a one-step method become the parts of a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from .backends.find_base import PROMPTS, Source
from .backends.light_decoder import use_decoder
from .backends.load_base import load_base
from .backends.networks import DiffusersUNet, DiffusersVAE
from .backends.prompt_store import PromptStore
from .backends.speed import Speed, apply_speed, weight_layout
from .backends.text import ClipPromptEncoder
from .errors import BaseModelError, CheckpointError, OptionError
from .method import Method
from .runtime.device import parse_device, parse_dtype
from .schedule import NoiseSchedule
from .weights.checkpoint import read_decoder, read_weights, weights_in
from .weights.formats import facts_of
from .weights.identify import identify
from .weights.merge import MergedAdapter, merge_weights
from .weights.one_step_weights import OneStepWeights
from .weights.tensor_file import TensorFile

MERGED = "merged"  # in the metadata of weights that are in their base already: the strength
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
    source: Source, weights: str | Path | TensorFile | None, method: str | None
) -> tuple[OneStepWeights, Method]:
    """The weights for a base, and the facts of their method; as in `OneStepGenerator.load`."""
    with torch.inference_mode(False):  # what is loaded within an inference mode serves outside of it, too
        one_step = _weights_for(source, weights, method)
    if one_step.network:
        raise CheckpointError(
            f"{one_step.source} is a network of its own and not for a base; load it by osediff_core.load_model."
        )
    return one_step, facts_of(one_step.method)


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
    if MERGED in one_step.metadata:
        keep_base = False
        if strength != (1.0, 1.0):
            raise OptionError(
                f"The weights are merged into {source.name} for good, at the strength {one_step.metadata[MERGED]:.40}; "
                "for another one load the base and the weights that it was made of."
            )
    loaded = load_base(source, None, "cpu", prediction_type=one_step.prediction_type)
    _check_timestep(one_step, loaded.schedule)
    if decoder is not None:
        use_decoder(loaded.vae, read_decoder(decoder))
    speed = speed or Speed()
    unet, vae = merge_weights(
        one_step,
        loaded.unet.module,
        loaded.vae.module,
        strength=strength,
        keep_base=keep_base,
        dtype=dtype,
        layout=weight_layout(speed, dtype, device),
    )
    for part in (loaded.unet, loaded.vae, loaded.text):
        part.to(device, dtype)
    apply_speed(speed, loaded.unet.module, loaded.vae.module, dtype, device)
    if (source.path / PROMPTS).is_dir():
        loaded.text.store = PromptStore(source.path / PROMPTS, source.grows)
    adapters = {"unet": unet, "vae": vae}
    schedule = replace(loaded.schedule, prediction_type=one_step.rule)
    return Parts(loaded.vae, loaded.unet, loaded.text, schedule, one_step.timestep, adapters)


def _weights_for(source: Source, given: str | Path | TensorFile | None, method: str | None) -> OneStepWeights:
    """The given weights, or those that lie beside the base."""
    own = source.default_weights
    if given is not None and own is not None and MERGED in TensorFile.open(own).metadata:
        raise CheckpointError(
            f"The base {source.name} has weights merged into it already; leave out the weights, or give the base that "
            "it was made of."
        )
    given = given if given is not None else own
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
