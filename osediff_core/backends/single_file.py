"""A single-file Stable Diffusion checkpoint (the original authors' names) as diffusers' three parts.

diffusers' own converters rename the tensors; nothing is asked of any hub.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..errors import BaseModelError
from ..weights.identify import Identity
from ..weights.tensor_file import Tensors

_TEXT = "cond_stage_model.model."
_VAE = ("first_stage_model.", "vae.")
# their own advice leads to a base, as that of weights does
_WELL_ADVISED = ("diffusers_model", "text_encoder")
_REMEDY = "use SD 2.1-base, as a single file or a diffusers folder"


def split_single_file(
    tensors: Tensors, identity: Identity, configs: dict[str, dict[str, Any]], name: str
) -> dict[str, Tensors]:
    """The tensors of unet, vae and text_encoder under diffusers' names.

    identity: what the file is. configs: of the three parts, by part. Tensors of other things (EMA, the last
    text layer that SD 2 does not use) are left out. Raises BaseModelError if a part is not there, or if it is
    another model's.
    """
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )

    _check_identity(identity, tensors, configs, name)
    # The EMA copy repeats the UNet, and the converter would warn about it.
    tensors = {k: v for k, v in tensors.items() if not k.startswith("model_ema.")}
    text_model = SimpleNamespace(
        config=SimpleNamespace(hidden_size=int(configs["text_encoder"]["hidden_size"]))
    )
    return {
        "unet": convert_ldm_unet_checkpoint(tensors, configs["unet"]),
        "vae": convert_ldm_vae_checkpoint(tensors, configs["vae"]),
        "text_encoder": convert_open_clip_checkpoint(text_model, tensors, prefix=_TEXT),
    }


def _check_identity(
    identity: Identity, tensors: Tensors, configs: dict[str, dict[str, Any]], name: str
) -> None:
    """Say in one sentence what this file is, where it is not a whole checkpoint of the wanted size."""
    if identity.kind != "sd_checkpoint":
        remedy = identity.use if identity.is_weights or identity.kind in _WELL_ADVISED else _REMEDY
        raise BaseModelError(f"The file {name} is {identity.what}, not a base model; {remedy}.")
    unet = configs["unet"]
    width, channels = int(unet["cross_attention_dim"]), int(unet.get("in_channels", 4))
    found = identity.details.get("context_dim"), identity.details.get("in_channels")
    if found != (width, channels):
        raise BaseModelError(
            f"The file {name} is {identity.what}, but a base with {width} text features and {channels} latent "
            f"channels is needed; {_REMEDY}."
        )
    for part, prefixes in (("VAE", _VAE), ("text encoder (OpenCLIP)", _TEXT)):
        if not any(key.startswith(prefixes) for key in tensors):
            raise BaseModelError(
                f"The file {name} has no {part}; use a full checkpoint or a diffusers folder."
            )
