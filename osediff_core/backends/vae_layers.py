"""diffusers' AutoencoderKL as the layers that the exact tiles (`tiles/vae`) are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING, cast

from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention as DiffusersAttention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ..layers import Attention, Convolution, Head, Layer, Norm, Resnet
from .tiny_decoder import TinyDecoder

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import Decoder
    from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D


class UnknownLayer(Exception):
    """The network has a layer that is not Stable Diffusion's VAE's; what it is."""


def encoder_layers(vae: AutoencoderKL) -> list[Layer]:
    """Image -> moments (mean and logvar). Raises UnknownLayer."""
    encoder = vae.encoder
    layers: list[Layer] = [_conv(encoder.conv_in)]
    for block in cast("Iterable[DownEncoderBlock2D]", encoder.down_blocks):
        layers += _blocks(block.resnets, getattr(block, "attentions", None))
        layers += [_down(layer) for layer in block.downsamplers or ()]
    layers += _blocks(encoder.mid_block.resnets, encoder.mid_block.attentions)
    layers.append(Head(_norm(_before_silu(encoder.conv_act, encoder.conv_norm_out)), _conv(encoder.conv_out)))
    return layers if vae.quant_conv is None else [*layers, _conv(vae.quant_conv)]


def decoder_layers(vae: AutoencoderKL) -> list[Layer]:
    """Latents -> image. Raises UnknownLayer."""
    decoder = cast("Decoder | TinyDecoder", vae.decoder)
    layers: list[Layer] = [] if vae.post_quant_conv is None else [_conv(vae.post_quant_conv)]
    if isinstance(decoder, TinyDecoder):
        return [*layers, *decoder.layers()]
    layers.append(_conv(decoder.conv_in))
    layers += _blocks(decoder.mid_block.resnets, decoder.mid_block.attentions)
    for block in cast("Iterable[UpDecoderBlock2D]", decoder.up_blocks):
        layers += _blocks(block.resnets, getattr(block, "attentions", None))
        layers += [_up(layer) for layer in block.upsamplers or ()]
    return [
        *layers,
        Head(_norm(_before_silu(decoder.conv_act, decoder.conv_norm_out)), _conv(decoder.conv_out)),
    ]


def _blocks(resnets: Iterable[nn.Module], attentions: Iterable[nn.Module] | None) -> list[Layer]:
    """Resnets, each with its attention behind it if there is one; the mid-block has one resnet more."""
    layers: list[Layer] = []
    for resnet, attention in zip_longest(resnets, attentions or ()):
        layers.append(_resnet(resnet))
        if attention is not None:
            layers.append(_attention(attention))
    return layers


def _resnet(block: nn.Module) -> Resnet:
    if not (
        isinstance(block, ResnetBlock2D)
        and block.time_emb_proj is None
        and block.time_embedding_norm != "scale_shift"
        and block.upsample is None
        and block.downsample is None
        and block.output_scale_factor == 1
    ):
        raise UnknownLayer(f"a {type(block).__name__} with options of its own")
    return Resnet(
        _norm(_before_silu(block.nonlinearity, block.norm1)),
        _conv(block.conv1),
        _norm(block.norm2),
        _conv(block.conv2),
        None if block.conv_shortcut is None else _conv(block.conv_shortcut),
    )


def _attention(block: nn.Module) -> Attention:
    inner = _unwrapped(block.to_q) if isinstance(block, DiffusersAttention) else None
    if not (
        isinstance(block, DiffusersAttention)
        and isinstance(inner, nn.Linear)
        and block.to_k is not None
        and block.to_v is not None
        and block.to_out is not None
        and block.group_norm is not None
        and block.spatial_norm is None
        and block.norm_q is None
        and block.norm_k is None
        and block.residual_connection
        and block.rescale_output_factor == 1
    ):
        raise UnknownLayer(f"a {type(block).__name__} with options of its own")

    def project(linear: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: linear(x.flatten(2).transpose(1, 2))

    out = block.to_out[0]
    return Attention(
        _norm(block.group_norm),
        project(block.to_q),
        project(block.to_k),
        project(block.to_v),
        out,
        inner.in_features,
        inner.out_features,
        block.heads,
        lambda: _gives_zeros(out),
    )


def _gives_zeros(linear: nn.Module) -> bool:
    """As long as it is not trained, nor wrapped by what is."""
    if not isinstance(linear, nn.Linear) or any(p.requires_grad for p in linear.parameters()):
        return False
    return not any(bool(p.any()) for p in linear.parameters())


def _conv(conv: nn.Module, change: str = "same", apply: nn.Module | None = None) -> Convolution:
    plain = _unwrapped(conv)
    if not isinstance(plain, nn.Conv2d):
        raise UnknownLayer(f"a {type(plain).__name__}")
    return Convolution(
        apply or conv, plain.in_channels, plain.out_channels, reach=plain.kernel_size[0] // 2, change=change
    )


def _unwrapped(layer: nn.Module) -> nn.Module:
    """The layer itself, which peft wraps where it is trained."""
    return getattr(layer, "base_layer", layer)


def _down(layer: nn.Module) -> Convolution:
    if not (isinstance(layer, Downsample2D) and layer.use_conv and layer.padding == 0 and layer.norm is None):
        raise UnknownLayer(f"a {type(layer).__name__} that does not pad at the bottom and right")
    return _conv(layer.conv, "half", layer)


def _up(layer: nn.Module) -> Convolution:
    if not (
        isinstance(layer, Upsample2D)
        and layer.conv is not None
        and not layer.use_conv_transpose
        and layer.interpolate
        and layer.norm is None
    ):
        raise UnknownLayer(f"a {type(layer).__name__} without nearest enlargement and convolution")
    return _conv(layer.conv, "double", layer)


def _norm(norm: nn.Module) -> Norm:
    if not isinstance(norm, nn.GroupNorm):
        raise UnknownLayer(f"a {type(norm).__name__}")
    return Norm(norm.num_groups, norm.eps, lambda: (norm.weight, norm.bias))


def _before_silu(activation: nn.Module, norm: nn.Module) -> nn.Module:
    """`norm`, once the activation behind it is known to be the one that the walk applies."""
    if not isinstance(activation, nn.SiLU):
        raise UnknownLayer(f"the activation {type(activation).__name__}")
    return norm
