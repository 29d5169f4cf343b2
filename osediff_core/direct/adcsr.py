"""AdcSR's network: Stable Diffusion's UNet at 3/4 width on unshuffled pixels, and half of its VAE's decoder behind it.

Chen et al., "Adversarial Diffusion Compression for Real-World Image Super-Resolution" (arXiv 2411.13383). The modules
are called as in its files, which follow diffusers. There is neither a time embedding nor cross-attention: one pass goes
from the LQ to the image at four times the size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..weights.decoder_file import ADCSR, DecoderWeights, check_whole
from ..weights.formats.adcsr import ABOUT
from ..weights.one_step_weights import OneStepWeights
from ..weights.tensor_file import shapes_of
from .network import Network

# widths of the levels -> heads of each level's attention, and of the middle's, which no file says: the published one,
# and the miniature that numbers of the official code were made with
_HEADS: dict[tuple[int, ...], tuple[int, ...]] = {
    (240, 480, 960, 960): (5, 10, 20, 20, 20),
    (24, 48, 48, 48): (2, 4, 4, 8, 8),
}
_GROUPS = (32, 24, 16, 12, 8, 6, 4, 2, 1)  # the first that divides the channels
_UNET, _MIDDLE = "body.1.", "body.2."  # of the names in its file


class _Resnet(nn.Module):
    def __init__(self, inward: int, outward: int, groups: tuple[int, int], eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups[0], inward, eps)
        self.conv1 = nn.Conv2d(inward, outward, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups[1], outward, eps)
        self.conv2 = nn.Conv2d(outward, outward, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inward, outward, 1) if inward != outward else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class _SelfAttention(nn.Module):
    """(B, n, C) -> (B, n, C)."""

    def __init__(self, width: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class _GEGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, gate = self.proj(tokens).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_GEGLU(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


class _Block(nn.Module):
    """A transformer block without cross-attention; its norms keep their numbers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), _SelfAttention(width, heads)
        self.norm3, self.ff = nn.LayerNorm(width), _FeedForward(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens))
        return tokens + self.ff(self.norm3(tokens))


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(width), width, 1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([_Block(width, heads)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        tokens = self.proj_out(self.transformer_blocks[0](tokens))
        return x + tokens.transpose(1, 2).unflatten(-1, x.shape[-2:])


class _Resample(nn.Module):
    """A convolution of stride 2, or one behind nearest enlargement."""

    def __init__(self, width: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


class _Level(nn.Module):
    """Resnets, each with its transformer behind it if there are some, then a change of the size."""

    resnets: nn.ModuleList

    def __init__(
        self, resnets: list[_Resnet], transformers: list[_Transformer], change: _Resample | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(transformers) if transformers else None
        if change is not None:
            setattr(self, "upsamplers" if change.up else "downsamplers", nn.ModuleList([change]))

    def stage(self, number: int, x: Tensor) -> Tensor:
        """The number-th resnet and its transformer."""
        x = self.resnets[number](x)
        return x if self.attentions is None else self.attentions[number](x)

    def change(self, x: Tensor) -> Tensor | None:
        """x at the next size; None for the last level."""
        layers = getattr(self, "upsamplers", None) or getattr(self, "downsamplers", None)
        return None if layers is None else layers[0](x)


class _Middle(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_unet_resnet(width, width) for _ in range(2)])
        self.attentions = nn.ModuleList([_Transformer(width, heads)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class _Student(nn.Module):
    """(B, 12, h, w) -> features (B, C, h, w), h and w multiples of 8."""

    def __init__(self, widths: tuple[int, ...], heads: tuple[int, ...], features: int) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(12, widths[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for i, out in enumerate(widths):
            resnets = [_unet_resnet(width if j == 0 else out, out) for j in range(2)]
            transformers = [_Transformer(out, heads[i]) for _ in range(2 if i < last else 0)]
            self.down_blocks.append(
                _Level(resnets, transformers, _Resample(out, False) if i < last else None)
            )
            skips += [out, out] + ([out] if i < last else [])
            width = out
        self.mid_block = _Middle(width, heads[-1])
        for i, out in enumerate(reversed(widths)):
            resnets = []
            for _ in range(3):
                resnets.append(_unet_resnet(width + skips.pop(), out))
                width = out
            transformers = [_Transformer(out, heads[last - i]) for _ in range(3 if i else 0)]
            self.up_blocks.append(_Level(resnets, transformers, _Resample(out, True) if i < last else None))
        self.conv_norm_out = nn.GroupNorm(_groups(width), width, 1e-5)
        self.conv_out = nn.Conv2d(width, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        skips = [x]
        for level in _levels(self.down_blocks):
            for number in range(len(level.resnets)):
                x = level.stage(number, x)
                skips.append(x)
            smaller = level.change(x)
            if smaller is not None:
                x = smaller
                skips.append(x)
        x = self.mid_block(x)
        for level in _levels(self.up_blocks):
            for number in range(len(level.resnets)):
                x = level.stage(number, torch.cat([x, skips.pop()], dim=1))
            larger = level.change(x)
            x = x if larger is None else larger
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class _DecoderAttention(_SelfAttention):
    """One head over all places of (B, C, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1, bias=True)
        self.group_norm = nn.GroupNorm(32, width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = super().forward(self.group_norm(x).flatten(2).transpose(1, 2))
        return x + tokens.transpose(1, 2).unflatten(-1, x.shape[-2:])


class _DecoderMiddle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_vae_resnet(width, width) for _ in range(2)])
        self.attentions = nn.ModuleList([_DecoderAttention(width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class _Decoder(nn.Module):
    """Features (B, C, h, w) -> image (B, 3, 8 h, 8 w), about [-1, 1]: the VAE's decoder without its first layer."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        width = widths[-1]
        self.mid_block = _DecoderMiddle(width)
        self.up_blocks = nn.ModuleList()
        for i, out in enumerate(reversed(widths)):
            resnets = [_vae_resnet(width if j == 0 else out, out) for j in range(3)]
            self.up_blocks.append(_Level(resnets, [], _Resample(out, True) if i + 1 < len(widths) else None))
            width = out
        self.conv_norm_out = nn.GroupNorm(32, width, 1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(x)
        for level in _levels(self.up_blocks):
            for number in range(len(level.resnets)):
                x = level.stage(number, x)
            larger = level.change(x)
            x = x if larger is None else larger
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AdcSR(Network):
    """LQ (B, 3, h, w) in [-1, 1], sides multiples of 16 -> image (B, 3, 4 h, 4 w), about [-1, 1]."""

    scale, multiple, method = 4, 16, ABOUT

    def __init__(self, widths: tuple[int, ...], heads: tuple[int, ...], decoder: list[int]) -> None:
        super().__init__()
        self.student = _Student(widths, heads, decoder[-1])
        self.decoder = _Decoder(decoder)

    def forward(self, lq: Tensor) -> Tensor:
        return self.decoder(self.student(F.pixel_unshuffle(lq, 2)))

    def finish(self, image: Tensor, lq: Tensor) -> Tensor:
        """The image with mean and spread of the LQ's channels, as the official code ends: adain without an epsilon.

        Both in [-1, 1], of any sizes; -> fp32, not clamped.
        """
        mean, std = (_moments(image.float()), _moments(lq.float()))
        return (image.float() - mean[0]) / mean[1] * std[1] + std[0]


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Per image and channel: mean and unbiased standard deviation, each (B, C, 1, 1); one pixel has no spread."""
    mean = image.mean((-2, -1), keepdim=True)
    return mean, image.std((-2, -1), keepdim=True) if image[0, 0].numel() > 1 else torch.zeros_like(mean)


def _levels(blocks: nn.ModuleList) -> list[_Level]:
    return cast("list[_Level]", list(blocks))


def _groups(channels: int) -> int:
    return next(groups for groups in _GROUPS if channels % groups == 0)


def _unet_resnet(inward: int, outward: int) -> _Resnet:
    return _Resnet(inward, outward, (_groups(inward), _groups(outward)), 1e-5)


def _vae_resnet(inward: int, outward: int) -> _Resnet:
    return _Resnet(inward, outward, (32, 32), 1e-6)


def build(weights: OneStepWeights, decoder: DecoderWeights | None) -> AdcSR:
    """The network of both files, in fp32 on the CPU. Raises CheckpointError for files that do not belong together."""
    if decoder is None:
        raise CheckpointError(
            f"{weights.source} is one of AdcSR's two files; give the other, halfDecoder.ckpt, as the decoder "
            "(--decoder)."
        )
    if decoder.kind != ADCSR:
        raise CheckpointError(
            f"{decoder.source} is {decoder.kind}, but AdcSR needs its own, halfDecoder.ckpt."
        )
    unet = {n.removeprefix(_UNET): t for n, t in weights.network.items() if n.startswith(_UNET)}
    middle = {n.removeprefix(_MIDDLE): t for n, t in weights.network.items() if n.startswith(_MIDDLE)}
    widths = _widths(unet)
    heads = _HEADS.get(widths)
    if heads is None:
        raise CheckpointError(
            f"{weights.source} has widths of {', '.join(map(str, widths))}, which AdcSR's published network has not; "
            "give net_params_200.pkl."
        )
    with torch.device("meta"):
        network = AdcSR(widths, heads, decoder.widths)
    tensors = {f"student.{name}": tensor for name, tensor in unet.items()}
    tensors |= {f"decoder.mid_block.{name}": tensor for name, tensor in middle.items()}
    used = ("up_blocks.", "conv_norm_out.", "conv_out.")  # the student has a middle of its own
    half = {f"decoder.{name}": t for name, t in decoder.tensors.items() if name.startswith(used)}
    wanted = shapes_of(network.state_dict())
    decoder.check(half, {name: shape for name, shape in wanted.items() if _of_half(name)})
    check_whole(
        f"{weights.source} is not whole as AdcSR's network",
        tensors,
        {name: shape for name, shape in wanted.items() if not _of_half(name)},
    )
    network.load_state_dict({**tensors, **half}, assign=True)
    return network.requires_grad_(False).eval()


def _of_half(name: str) -> bool:
    return name.startswith("decoder.") and not name.startswith("decoder.mid_block.")


def _widths(unet: Mapping[str, Tensor]) -> tuple[int, ...]:
    end = ".resnets.0.conv1.weight"
    levels = sorted(name for name in unet if name.startswith("down_blocks.") and name.endswith(end))
    return tuple(unet[name].shape[0] for name in levels)
