"""A light decoder as an object patch on ComfyUI's VAE, so that the VAE that is given stays as it is."""

from __future__ import annotations

import copy
import uuid

import comfy.sd
import torch
from comfy.ldm.modules.diffusionmodules.model import Decoder
from torch import nn

from ...osediff_core.errors import BaseModelError, CheckpointError
from ...osediff_core.weights.decoder_file import TAESD, DecoderWeights
from ...osediff_core.weights.tensor_file import shapes_of
from .names import convert_vae
from .vae import NativeVAE, is_known, network_of


def with_decoder(vae: comfy.sd.VAE, weights: DecoderWeights) -> comfy.sd.VAE:
    """The VAE with this decoder in the place of its own; its encoder, and what is patched onto that, stay.

    Raises BaseModelError for a VAE of another architecture, CheckpointError for a decoder of other latents, or TAESD's.
    """
    if weights.kind == TAESD:
        raise CheckpointError(
            f"{weights.source} is TAESD's decoder, which ComfyUI loads itself; put it into models/vae_approx and "
            "choose taesd in Load VAE."
        )
    if not is_known(vae):
        raise BaseModelError("This VAE is not Stable Diffusion's AutoencoderKL; use the one of SD 2.1-base.")
    codec = NativeVAE(vae)
    wanted, has = (weights.latent_channels, weights.downscale), (codec.latent_channels, codec.downscale)
    if wanted != has:
        raise CheckpointError(
            f"{weights.source} decodes {wanted[0]} latent channels at 1/{wanted[1]} of the size, but this VAE has "
            f"{has[0]} at 1/{has[1]}; use it with Stable Diffusion 2.1's latents."
        )
    light = copy.copy(vae)
    light.patcher = vae.patcher.clone()
    light.patcher.add_object_patch("decoder", _decoder(weights).to(vae.vae_dtype))
    if not weights.post_quant_conv and getattr(network_of(vae), "post_quant_conv", None) is not None:
        light.patcher.add_object_patch("post_quant_conv", _identity(wanted[0]).to(vae.vae_dtype))
    light.patcher.patches_uuid = uuid.uuid4()  # or ComfyUI would take what is loaded for this
    return light


def _decoder(weights: DecoderWeights) -> nn.Module:
    widths = weights.widths
    decoder = Decoder(
        ch=widths[0],
        out_ch=3,
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=weights.layers_per_block,
        attn_resolutions=[],
        in_channels=3,
        resolution=256,
        z_channels=weights.latent_channels,
    )
    named = {f"decoder.{name}": tensor for name, tensor in weights.tensors.items()}
    tensors = {
        name.removeprefix("decoder."): tensor.clone()
        for name, tensor in convert_vae(named, levels=len(widths)).items()
    }
    weights.check(tensors, shapes_of(decoder.state_dict()))
    decoder.load_state_dict(tensors)
    return decoder.requires_grad_(False).eval()


def _identity(channels: int) -> nn.Conv2d:
    """A 1x1 convolution that gives its input, for a decoder that knows none before it."""
    import comfy.ops

    conv = comfy.ops.disable_weight_init.Conv2d(channels, channels, 1)
    conv.weight = nn.Parameter(torch.eye(channels)[:, :, None, None], requires_grad=False)
    conv.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)
    return conv
