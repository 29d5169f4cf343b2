"""Checks of what other nodes give: MODEL, VAE, LATENT and CONDITIONING must be of the family that the step is for.

ComfyUI's sockets have a type, but no family: an SDXL prompt fits the socket of an SD 2.1 one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..osediff_core.errors import BaseModelError, ImageError, OptionError


def check_model(model: ModelPatcher | None) -> None:
    """Raises BaseModelError where a loader found no diffusion model."""
    if model is None:
        raise BaseModelError(
            "There is no MODEL at model; connect the one of Load OSEDiff or of a whole checkpoint."
        )


def check_vae(vae: comfy.sd.VAE | None) -> None:
    """Raises BaseModelError for a VAE that is missing, or that is not for single pictures."""
    if vae is None or vae.first_stage_model is None:
        raise BaseModelError(
            "There is no VAE at vae; connect the one of Load OSEDiff, or of Load VAE where the checkpoint has none."
        )
    if vae.latent_dim != 2 or vae.output_channels != 3:
        kind = "video" if vae.latent_dim == 3 else "sound or 3D"
        raise BaseModelError(
            f"The VAE at vae is one for {kind}, not for pictures; connect the one of Load OSEDiff or Apply OSEDiff."
        )


def latent_samples(latent: dict[str, Any]) -> Tensor:
    """The tensor of a LATENT. Raises ImageError for one that is not of pictures (B, C, h, w), or has none."""
    samples = latent.get("samples")
    if not torch.is_tensor(samples) or samples.ndim != 4:
        found = f"of the shape {tuple(samples.shape)}" if torch.is_tensor(samples) else "of several parts"
        raise ImageError(
            f"The LATENT at latent is {found}, as of video or sound, but pictures (batch, channels, height, width) are "
            "wanted; connect that of Encode LQ, of VAE Encode or of an image sampler."
        )
    if 0 in samples.shape:
        raise ImageError(
            f"The LATENT at latent is empty (its shape is {tuple(samples.shape)}); connect one with a picture."
        )
    return samples


def check_channels(samples: Tensor, wanted: int, owner: str) -> None:
    """Raises OptionError for latents of another family than `owner`, a "MODEL" or "VAE"."""
    if samples.shape[1] != wanted:
        raise OptionError(
            f"The LATENT at latent has {samples.shape[1]} channels, but this {owner} takes {wanted}; use latents and "
            f"{owner} of one family: encode with the VAE that belongs to it."
        )


def context_width(model: ModelPatcher) -> int | None:
    """How many values a token of its CONDITIONING has; None if the MODEL does not say."""
    return model.model.model_config.unet_config.get("context_dim")


def check_widths(embeds: Iterable[Tensor | None], wanted: int | None, socket: str) -> None:
    """Raises OptionError for prompt embeddings of another family's CLIP."""
    for each in embeds:
        if each is None or each.ndim != 3:
            raise OptionError(
                f"The CONDITIONING at {socket} holds no text; connect DAPE Prompt or CLIP Text Encode."
            )
        if wanted is not None and each.shape[-1] != wanted:
            raise OptionError(
                f"The CONDITIONING at {socket} has {each.shape[-1]} values a token, but this MODEL takes {wanted}; "
                "connect a prompt made with the CLIP that belongs to it, such as that of Load OSEDiff."
            )
