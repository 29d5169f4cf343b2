"""ComfyUI's VAE behind the core's port: whole by itself, or as layers for the core's exact tiles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from ...osediff_core.ports import LatentScale
from .unet import casting_layers


class NativeVAE:
    """LatentCodec over a VAE of ComfyUI; its latents are those of a LATENT, which the MODEL scales.

    A VAE of Stable Diffusion's architecture is called directly, so that the core decides on tiles; one of another
    (TAESD, a video model's) is left to ComfyUI, which falls back on its own tiles when memory runs out.
    """

    def __init__(self, vae: comfy.sd.VAE) -> None:
        self._vae = copy.copy(vae)  # the dtype may change for a moment; the graph's own object must not
        self.downscale = int(vae.spacial_compression_encode())
        self.latent_channels = int(vae.latent_channels)

    @property
    def dtype(self) -> torch.dtype:
        """What the VAE computes in."""
        return self._vae.vae_dtype

    @contextmanager
    def fp32(self) -> Iterator[None]:
        """Compute in fp32 inside this context."""
        kept = self._vae.vae_dtype
        with casting_layers(self._vae.first_stage_model):
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
        if _is_known(self._vae):
            model = self._vae.first_stage_model
            found = model.encoder(self._to_device(image))  # `model.encode` would give the mean alone
            if hasattr(model, "quant_conv"):
                found = model.quant_conv(found)
            found = found.to(self._vae.output_device)
        else:
            found = self._vae.encode(((image + 1) / 2).movedim(1, -1))
        return self._posterior(found)

    def decode(self, latents: Tensor) -> Tensor:
        """LATENT's latents (B, C, h, w) -> image (B, 3, f h, f w), about [-1, 1], fp32."""
        if _is_known(self._vae):
            decoded = self._vae.first_stage_model.decode(self._to_device(latents))
            return decoded.to(self._vae.output_device).float()
        return (self._vae.decode(latents).movedim(-1, 1) * 2 - 1).float()

    def _posterior(self, moments: Tensor) -> Tensor:
        return LatentScale().posterior(moments, self.latent_channels)

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(self._vae.device, self._vae.vae_dtype)

    def _network(
        self,
        layers: Callable[[nn.Module, torch.device], list[Layer]],
        pixels: int,
        memory: Callable[[tuple[int, ...], torch.dtype], float],
        shape: tuple[int, ...],
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Network | None:
        vae = self._vae
        if not _is_known(vae):
            return None
        comfy.model_management.load_models_gpu(
            [vae.patcher],
            memory_required=memory(shape, vae.vae_dtype),
            force_full_load=vae.disable_offload,
        )
        return Network(
            layers(vae.first_stage_model, vae.device),
            vae.device,
            vae.vae_dtype,
            pixels,
            after=after,
            result_device=vae.output_device,
        )


def encoder_layers(model: AutoencodingEngine, device: torch.device) -> list[Layer]:
    """Image -> moments."""
    encoder = model.encoder
    layers: list[Layer] = [_conv(encoder.conv_in)]
    for level in encoder.down:
        layers += _level(level, device)
        if hasattr(level, "downsample"):
            layers.append(_conv(level.downsample.conv, "half", level.downsample))
    layers += [*_middle(encoder.mid, device), Head(_norm(encoder.norm_out, device), _conv(encoder.conv_out))]
    return [*layers, _conv(model.quant_conv)] if hasattr(model, "quant_conv") else layers


def decoder_layers(model: AutoencodingEngine, device: torch.device) -> list[Layer]:
    """Latents -> image."""
    decoder = model.decoder
    layers: list[Layer] = [_conv(model.post_quant_conv)] if hasattr(model, "post_quant_conv") else []
    layers += [_conv(decoder.conv_in), *_middle(decoder.mid, device)]
    for level in reversed(decoder.up):
        layers += _level(level, device)
        if hasattr(level, "upsample"):
            layers.append(_conv(level.upsample.conv, "double", level.upsample))
    return [*layers, Head(_norm(decoder.norm_out, device), _conv(decoder.conv_out))]


def _is_known(vae: comfy.sd.VAE) -> bool:
    """Whether it is built as Stable Diffusion's, of layers that the walk over tiles knows."""
    model = vae.first_stage_model
    if type(model) not in (AutoencodingEngine, AutoencodingEngineLegacy, AutoencoderKL):
        return False
    if type(model.regularization) not in (DiagonalGaussianRegularizer, EmptyRegularizer):
        return False
    if getattr(model, "bn", None) is not None or getattr(model, "max_batch_size", None) is not None:
        return False
    if (type(model.encoder), type(model.decoder)) != (ldm.Encoder, ldm.Decoder) or model.decoder.tanh_out:
        return False
    half = torch.tensor(0.5)
    if vae.process_input(half) != 0 or vae.process_output(half.clone()) != 0.75:  # other values than [-1, 1]
        return False
    layers = (nn.Conv2d, nn.GroupNorm, nn.SiLU, nn.Dropout, nn.ModuleList)
    blocks = (ldm.ResnetBlock, ldm.AttnBlock, ldm.Upsample, ldm.Downsample, nn.Module)
    inside = [*model.encoder.modules()][1:] + [*model.decoder.modules()][1:]
    return all(isinstance(module, layers) or type(module) in blocks for module in inside)


def _level(level: nn.Module, device: torch.device) -> list[Layer]:
    layers: list[Layer] = []
    for index, block in enumerate(level.block):
        layers.append(_resnet(block, device))
        if len(level.attn):
            layers.append(_attention(level.attn[index], device))
    return layers


def _middle(mid: nn.Module, device: torch.device) -> list[Layer]:
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

    channels = block.in_channels
    norm, parts = _norm(block.norm, device), (block.q, block.k, block.v)
    return Attention(norm, *(project(part) for part in parts), out, channels, channels)


def _conv(conv: nn.Module, change: str = "same", apply: nn.Module | None = None) -> Convolution:
    reach = conv.kernel_size[0] // 2
    return Convolution(apply or conv, conv.in_channels, conv.out_channels, reach, change)


def _norm(norm: nn.GroupNorm, device: torch.device) -> Norm:
    def affine() -> tuple[Tensor, Tensor]:
        # with the patches on them, from wherever ComfyUI keeps them
        return comfy.ops.cast_bias_weight(norm, dtype=torch.float32, device=device, bias_dtype=torch.float32)

    return Norm(norm.num_groups, norm.eps, affine)
