"""A light decoder in the place of the base's own: less work and memory for the same latents, less fine results."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.autoencoders.vae import Decoder
from torch import nn

from ..errors import CheckpointError
from ..weights.decoder_file import TAESD, DecoderWeights
from ..weights.tensor_file import shapes_of
from .networks import DiffusersVAE
from .tiny_decoder import TinyDecoder


def use_decoder(vae: DiffusersVAE, weights: DecoderWeights) -> None:
    """Put the light decoder into the VAE. Raises CheckpointError, before anything is changed, if it does not fit."""
    wanted, has = (weights.latent_channels, weights.downscale), (vae.latent_channels, vae.downscale)
    if wanted != has:
        raise CheckpointError(
            f"{weights.source} decodes {wanted[0]} latent channels at 1/{wanted[1]} of the size, but this base has "
            f"{has[0]} at 1/{has[1]}; use it with Stable Diffusion 2.1's latents."
        )
    own = next(vae.module.decoder.parameters())
    with torch.device("meta"):
        network, target = _network(vae, weights)
    weights.check(weights.tensors, shapes_of(target.state_dict()))
    target.load_state_dict(weights.tensors, strict=True, assign=True)
    network.to(own.device, own.dtype).requires_grad_(False).eval()
    vae.module.decoder = cast("Decoder", network)
    if not weights.post_quant_conv:
        vae.module.post_quant_conv = None


def _network(vae: DiffusersVAE, weights: DecoderWeights) -> tuple[nn.Module, nn.Module]:
    """The network, and the part of it that the tensors are of."""
    if weights.kind == TAESD:
        tiny = TinyDecoder(vae.scaling_factor)
        return tiny, tiny.tiny
    widths = weights.widths
    decoder = Decoder(
        weights.latent_channels,
        3,
        ("UpDecoderBlock2D",) * len(widths),
        tuple(widths),
        weights.layers_per_block,
    )
    return decoder, decoder
