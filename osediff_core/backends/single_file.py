"""A single-file Stable Diffusion checkpoint (the original authors' names) as diffusers' three parts.

diffusers' own converters rename the tensors; nothing is asked of any hub.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..errors import BaseModelError
from .tensor_files import Tensors

_UNET = "model.diffusion_model."
_TEXT = "cond_stage_model.model."
_VAE = ("first_stage_model.", "vae.")
_CROSS_ATTENTION = "attn2.to_k.weight"  # its inputs are the text encoder's features
_WIDTHS = {768: "Stable Diffusion 1.x", 1280: "SDXL's refiner", 2048: "SDXL"}


def split_single_file(tensors: Tensors, configs: dict[str, dict[str, Any]], name: str) -> dict[str, Tensors]:
    """The tensors of unet, vae and text_encoder under diffusers' names.

    configs: of the three parts, by part. Tensors of other things (EMA, the last text layer that SD 2 does not
    use) are left out. Raises BaseModelError if a part is not there, or if it is another model's.
    """
    from diffusers.loaders.single_file_utils import (
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )

    _check_identity(tensors, int(configs["unet"]["cross_attention_dim"]), name)
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


def _check_identity(tensors: Tensors, width: int, name: str) -> None:
    """Say in one sentence what this file is, where it is not a whole checkpoint of the wanted width."""

    def has(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in tensors)

    if not has(_UNET):
        what = "OSEDiff or LoRA weights" if any("lora" in key for key in tensors) else "another kind of model"
        raise BaseModelError(
            f"The file {name} is no Stable Diffusion checkpoint (it looks like {what}); give the base model "
            "here and OSEDiff weights as the weights."
        )
    widths = (t.shape[1] for k, t in tensors.items() if k.startswith(_UNET) and k.endswith(_CROSS_ATTENTION))
    found = next(widths, width)
    if found != width:
        kind = _WIDTHS.get(found, f"a model with {found} text features")
        raise BaseModelError(
            f"The file {name} is {kind}, but a base with {width} text features is needed; use SD 2.1-base."
        )
    if not has(*_VAE) or not has(_TEXT):
        part = "text encoder (OpenCLIP)" if has(*_VAE) else "VAE"
        raise BaseModelError(f"The file {name} has no {part}; use a full checkpoint or a diffusers folder.")
