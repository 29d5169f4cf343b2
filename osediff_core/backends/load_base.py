"""Load a base model: VAE, UNet, text encoder and noise schedule, identified by what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import BaseModelError
from ..runtime.device import parse_device, parse_dtype
from ..schedule import NoiseSchedule
from ..weights.identify import is_v_prediction
from .build_networks import build_networks
from .find_base import Source, find_base
from .networks import DiffusersUNet, DiffusersVAE
from .read_base import SD21_BASE, RawBase, read_raw
from .text import ClipPromptEncoder

_SD2_TEXT_FEATURES = 1024


@dataclass
class Base:
    """A loaded base: frozen, in eval mode. default_weights: the OSEDiff weights that came with it."""

    vae: DiffusersVAE
    unet: DiffusersUNet
    text: ClipPromptEncoder
    schedule: NoiseSchedule
    name: str
    default_weights: Path | None = None


def load_base(
    base: str | Path | Source,
    dtype: str | torch.dtype | None = "auto",
    device: str | torch.device = "auto",
    allow_download: bool = False,
    *,
    revision: str | None = None,
    prediction_type: str = "epsilon",
    configs: Path = SD21_BASE,
) -> Base:
    """Load a base model.

    base: a diffusers folder, a single-file Stable Diffusion checkpoint, a hub id (used from the local cache,
        or downloaded with allow_download), or "tiny".
    dtype: auto, fp32, fp16 or bf16 for all weights; None leaves each as it is stored.
    prediction_type: what the OSEDiff weights to be used were trained on; a base of another kind is refused.
    configs: the configuration folder for single files.
    Raises BaseModelError for anything that cannot be used, OptionError for a wrong dtype or device.
    """
    device = parse_device(device)
    dtype = None if dtype is None else parse_dtype(dtype, device)
    source = base if isinstance(base, Source) else find_base(base, allow_download, revision)
    raw = read_raw(source, configs)
    schedule = NoiseSchedule.from_config({**raw.scheduler, "prediction_type": found_prediction_type(raw)})
    _check_prediction_type(schedule.prediction_type, prediction_type, source.name)
    networks = build_networks(raw, source.name, dtype, device)
    return Base(
        vae=DiffusersVAE(networks["vae"]),
        unet=DiffusersUNet(networks["unet"]),
        text=ClipPromptEncoder.from_folder(raw.tokenizer, networks["text_encoder"]),
        schedule=schedule,
        name=source.name,
        default_weights=source.default_weights,
    )


def found_prediction_type(raw: RawBase) -> str:
    """The prediction that the UNet makes, by its content where that tells, else by the scheduler's config."""
    unet = raw.tensors["unet"]
    sd2 = raw.configs["unet"].get("cross_attention_dim") == _SD2_TEXT_FEATURES
    if sd2 and is_v_prediction(unet, unet.__getitem__):
        return "v_prediction"
    return str(raw.scheduler.get("prediction_type", "epsilon"))


def _check_prediction_type(found: str, wanted: str, name: str) -> None:
    if found == wanted:
        return
    if found == "v_prediction":
        raise BaseModelError(
            f"The base {name} is a v-prediction model (as the 768-pixel SD 2.1 is), but OSEDiff's weights "
            "are for one that predicts the noise; use SD 2.1-base, the 512-pixel model."
        )
    raise BaseModelError(
        f"The base {name} predicts {found}, but the OSEDiff weights were trained on a base that predicts "
        f"{wanted}; use the base that they were trained on."
    )
