"""ComfyUI's VAE behind the core's port: whole by itself, or as layers for the core's exact tiles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, cast

import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import (
    AutoencoderKL,
    AutoencodingEngine,
    AutoencodingEngineLegacy,
    DiagonalGaussianRegularizer,
    EmptyRegularizer,
)
from comfy.ldm.modules.diffusionmodules import model as ldm
from torch import Tensor, nn

from ...osediff_core.layers import Attention, Convolution, Head, Layer, Network, Norm, Resnet
from ...osediff_core.ports import LatentCodec, LatentScale
from .unet import casting_layers


class NativeVAE:
    """LatentCodec over a VAE of ComfyUI; its latents are those of a LATENT, which the MODEL scales.

    A VAE of Stable Diffusion's architecture is called directly, so that the core decides on tiles; one of another
    (TAESD, a video model's) is left to ComfyUI, which falls back on its own tiles when memory runs out.
    """

    def __init__(self, vae: comfy.sd.VAE) -> None:
        self._vae = copy.copy(vae)  # the dtype may change for a moment; the graph's own object must not
        # of an image's VAE it is a number; a video's may have a function there
        self.downscale = int(cast("float", vae.spacial_compression_encode()))
        self.latent_channels = int(vae.latent_channels)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the VAE computes in."""
        return self._vae.vae_dtype

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        kept = self._vae.vae_dtype
        with casting_layers(network_of(self._vae)):
            self._vae.vae_dtype = torch.float32
            try:
                yield
            finally:
                self._vae.vae_dtype = kept

    def encoder(self, height: int, width: int) -> Network | None:
        """`encode` as layers, for tiles; None for another architecture. Loads the VAE onto its device."""
        memory = self._vae.memory_used_encode
        return self._network(encoder_layers, 1, memory, (1, 3, height, width), self._posterior)

    def decoder(self, height: int, width: int) -> Network | None:
        """`decode` as layers, for tiles; None for another architecture. Loads the VAE onto its device."""
        shape = (1, self.latent_channels, height, width)
        return self._network(decoder_layers, self.downscale, self._vae.memory_used_decode, shape)

    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] -> posterior (B, 2 C, H/f, W/f): mean, deviation (0 where it has none)."""
        model = _known_model(self._vae)
        if model is not None:
            found = model.encoder(self._to_device(image))  # `model.encode` would give the mean alone
            quant_conv = getattr(model, "quant_conv", None)
            if quant_conv is not None:
                found = quant_conv(found)
            found = found.to(self._vae.output_device)
        else:
            found = self._vae.encode(((image + 1) / 2).movedim(1, -1))
        return self._posterior(found)

    def decode(self, latents: Tensor) -> Tensor:
        """LATENT's latents (B, C, h, w) -> image (B, 3, f h, f w), about [-1, 1], fp32."""
        model = _known_model(self._vae)
        if model is not None:
            decoded = model.decode(self._to_device(latents))
            return decoded.to(self._vae.output_device).float()
        return (self._vae.decode(latents).movedim(-1, 1) * 2 - 1).float()

    def _posterior(self, moments: Tensor) -> Tensor:
        return LatentScale().posterior(moments, self.latent_channels)

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(self._vae.device, self._vae.vae_dtype)

    def _network(
        self,
        layers: Callable[[AutoencodingEngine, torch.device], list[Layer]],
        pixels: int,
        memory: Callable[[tuple[int, ...], torch.dtype], float],
        shape: tuple[int, ...],
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Network | None:
        vae, model = self._vae, _known_model(self._vae)
        if model is None:
            return None
        comfy.model_management.load_models_gpu(
            [vae.patcher],
            memory_required=int(memory(shape, vae.vae_dtype)),
            force_full_load=vae.disable_offload,
        )
        return Network(
            layers(model, vae.device),
            vae.device,
            vae.vae_dtype,
            pixels,
            after=after,
            result_device=vae.output_device,
        )


def network_of(vae: comfy.sd.VAE) -> nn.Module:
    """The VAE's network, whatever its architecture."""
    return cast("nn.Module", vae.first_stage_model)


def is_known(vae: comfy.sd.VAE) -> bool:
    """Whether the VAE is of Stable Diffusion's architecture."""
    return _known_model(vae) is not None


def encoder_layers(model: AutoencodingEngine, device: torch.device) -> list[Layer]:
    """Image -> moments."""
    encoder, quant_conv = cast("ldm.Encoder", model.encoder), getattr(model, "quant_conv", None)
    layers: list[Layer] = [_conv(encoder.conv_in)]
    for level in cast("Iterable[_Level]", encoder.down):
        layers += _level(level, device)
        downsample = getattr(level, "downsample", None)
        if downsample is not None:
            layers.append(_conv(downsample.conv, "half", downsample))
    layers += _middle(cast("_Middle", encoder.mid), device)
    layers.append(Head(_norm(encoder.norm_out, device), _conv(encoder.conv_out)))
    return layers if quant_conv is None else [*layers, _conv(quant_conv)]


def decoder_layers(model: AutoencodingEngine, device: torch.device) -> list[Layer]:
    """Latents -> image."""
    decoder, post_quant_conv = cast("ldm.Decoder", model.decoder), getattr(model, "post_quant_conv", None)
    layers: list[Layer] = [] if post_quant_conv is None else [_conv(post_quant_conv)]
    layers += [_conv(decoder.conv_in), *_middle(cast("_Middle", decoder.mid), device)]
    for level in reversed(cast("Sequence[_Level]", decoder.up)):
        layers += _level(level, device)
        upsample = getattr(level, "upsample", None)
        if upsample is not None:
            layers.append(_conv(upsample.conv, "double", upsample))
    return [*layers, Head(_norm(decoder.norm_out, device), _conv(decoder.conv_out))]


class _Level(Protocol):
    """One resolution of ldm.Encoder or ldm.Decoder: an nn.Module that is given its parts from outside."""

    block: Iterable[ldm.ResnetBlock]
    attn: Sequence[ldm.AttnBlock]


class _Middle(Protocol):
    """The mid-block of both."""

    block_1: ldm.ResnetBlock
    attn_1: ldm.AttnBlock
    block_2: ldm.ResnetBlock


def _known_model(vae: comfy.sd.VAE) -> AutoencodingEngine | None:
    """The network, if it is built as Stable Diffusion's, of layers that the walk over tiles knows."""
    model = vae.first_stage_model
    if not isinstance(model, AutoencodingEngine):
        return None
    if type(model) not in (AutoencodingEngine, AutoencodingEngineLegacy, AutoencoderKL):
        return None
    if type(model.regularization) not in (DiagonalGaussianRegularizer, EmptyRegularizer):
        return None
    if getattr(model, "bn", None) is not None or getattr(model, "max_batch_size", None) is not None:
        return None
    if (type(model.encoder), type(model.decoder)) != (ldm.Encoder, ldm.Decoder) or model.decoder.tanh_out:
        return None
    half = torch.tensor(0.5)
    if vae.process_input(half) != 0 or vae.process_output(half.clone()) != 0.75:  # other values than [-1, 1]
        return None
    layers = (nn.Conv2d, nn.GroupNorm, nn.SiLU, nn.Dropout, nn.ModuleList)
    blocks = (ldm.ResnetBlock, ldm.AttnBlock, ldm.Upsample, ldm.Downsample, nn.Module)
    inside = [*model.encoder.modules()][1:] + [*model.decoder.modules()][1:]
    known = all(isinstance(module, layers) or type(module) in blocks for module in inside)
    return model if known else None


def _level(level: _Level, device: torch.device) -> list[Layer]:
    layers: list[Layer] = []
    for index, block in enumerate(level.block):
        layers.append(_resnet(block, device))
        if len(level.attn):
            layers.append(_attention(level.attn[index], device))
    return layers


def _middle(mid: _Middle, device: torch.device) -> list[Layer]:
    return [_resnet(mid.block_1, device), _attention(mid.attn_1, device), _resnet(mid.block_2, device)]


def _resnet(block: ldm.ResnetBlock, device: torch.device) -> Resnet:
    shortcut = None
    if block.in_channels != block.out_channels:
        shortcut = _conv(block.conv_shortcut if block.use_conv_shortcut else block.nin_shortcut)
    return Resnet(
        _norm(block.norm1, device),
        _conv(block.conv1),
        _norm(block.norm2, device),
        _conv(block.conv2),
        shortcut,
    )


def _attention(block: ldm.AttnBlock, device: torch.device) -> Attention:
    def project(conv: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: conv(x).flatten(2).transpose(1, 2)

    def out(places: Tensor) -> Tensor:
        return block.proj_out(places.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)

    return Attention(
        _norm(block.norm, device),
        project(block.q),
        project(block.k),
        project(block.v),
        out,
        channels=block.in_channels,
        inner=block.in_channels,
        idle=lambda: not any(bool(t.any()) for t in _affine(block.proj_out, device) if t is not None),
    )


def _conv(conv: nn.Module, change: str = "same", apply: nn.Module | None = None) -> Convolution:
    plain = cast("nn.Conv2d", conv)  # `_known_model` has looked at all layers
    reach = plain.kernel_size[0] // 2
    return Convolution(apply or conv, plain.in_channels, plain.out_channels, reach, change)


def _norm(norm: nn.GroupNorm, device: torch.device) -> Norm:
    return Norm(norm.num_groups, norm.eps, lambda: _affine(norm, device))


def _affine(layer: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight and bias in fp32 with the patches on them, from wherever ComfyUI keeps them."""
    return comfy.ops.cast_bias_weight(layer, dtype=torch.float32, device=device, bias_dtype=torch.float32)


if TYPE_CHECKING:  # proved by pyright: this is what the port asks for
    _: type[LatentCodec] = NativeVAE
