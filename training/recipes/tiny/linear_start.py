"""Start an AutoencoderKL as a linear patch coder: PCA of 4x4 patches in, least squares out.

The function is put into the stock class by its weights alone, and training goes on from there. At equal steps
it is worth about 10 dB over the default initialisation for networks this small.

How a deep network is made linear: the second convolution of every residual branch and the attention's output are
zero, so blocks pass their input through; strided convolutions become space-to-depth; each upsampling convolution
is a ridge regression from the nearest-enlarged grid to the next finer one. The last GroupNorm of each half would
erase the picture's mean; so in every group the data stands beside its own negative (group mean 0) and beside two
constants +K and -K that outweigh it (variance about constant), and SiLU is used near its linear part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CONSTANT = 30.0  # K: large against the data, which lies within about [-3, 3]
SILU_OFFSET = 3.0  # SiLU is evaluated around this value
LOG_VARIANCE = -5.0  # of the posterior, everywhere
PATCH = 48  # values in a 4x4 RGB patch
KEPT = 24  # of its principal components that the encoder computes; the latents start as the first ones


def _silu_value_and_slope() -> tuple[float, float]:
    gate = 1 / (1 + math.exp(-SILU_OFFSET))
    return SILU_OFFSET * gate, gate + SILU_OFFSET * gate * (1 - gate)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _pass_through(conv: nn.Conv2d, channels: int) -> None:
    """Make the first `channels` outputs of `conv` copies of its inputs."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:channels] = 0
    _bias(conv)[:channels] = 0
    for channel in range(channels):
        conv.weight[channel, channel, middle, middle] = 1


def _linear_norm(norm: nn.GroupNorm, last_resnet: Any) -> None:  # noqa: ANN401 - one of diffusers' blocks
    """Put the constants before `norm` and set its gain so that it passes the data on, shifted by SILU_OFFSET."""
    per_group = norm.num_channels // norm.num_groups
    constants = torch.zeros(norm.num_channels)
    constants[per_group - 2 :: per_group] = CONSTANT
    constants[per_group - 1 :: per_group] = -CONSTANT
    last_resnet.conv2.bias.copy_(constants)
    norm.weight.fill_(CONSTANT * math.sqrt(2 / per_group))
    norm.bias.fill_(SILU_OFFSET)


def ridge(inputs: Tensor, targets: Tensor, strength: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Weights (in, out) and bias (out,) of the ridge regression from `inputs` (n, in) to `targets` (n, out)."""
    design = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    gram = design.T @ design / len(inputs)
    gram += strength * gram.diagonal().mean() * torch.eye(len(gram))
    solution = torch.linalg.solve(gram, design.T @ targets.double() / len(inputs)).float()
    return solution[:-1], solution[-1]


def _pixels(image: Tensor) -> Tensor:
    return rearrange(image, "b c h w -> (b h w) c")


def _fit_upsampler(conv: nn.Conv2d, coarse: Tensor, fine: Tensor) -> Tensor:
    """Fit `conv`, which follows a nearest x2 enlargement, to map `coarse` to `fine`; returns its prediction."""
    enlarged = F.interpolate(coarse, scale_factor=2, mode="nearest")
    patches = rearrange(F.unfold(enlarged, 3, padding=1), "b d n -> (b n) d")
    weight, bias = ridge(patches, _pixels(fine))
    inputs, outputs = coarse.shape[1], fine.shape[1]
    conv.weight[:outputs] = 0
    conv.weight[:outputs, :inputs] = weight.T.reshape(outputs, inputs, 3, 3)
    _bias(conv)[:outputs] = bias
    return rearrange(patches @ weight + bias, "(b h w) c -> b c h w", b=len(fine), h=fine.shape[2])


@torch.no_grad()
def linear_start(vae: AutoencoderKL, crops: Tensor) -> None:
    """Set `vae` (three levels, f = 4) to the linear coder fitted on `crops` (B, 3, H, W) in [-1, 1].

    Source: measured for this project; no paper.
    """
    for name, parameter in vae.named_parameters():
        if ".conv2." in name or ".to_out.0." in name:
            nn.init.zeros_(parameter)
    shallow = F.pixel_unshuffle(crops, 2)
    deep = F.pixel_unshuffle(shallow, 2)
    components, deviations, mean = _patch_pca(deep, KEPT)
    _start_encoder(vae, components, deviations, mean)
    _start_decoder(vae, components, deviations, mean, crops, shallow, deep)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        assert conv is not None
        _pass_through(conv, conv.out_channels)


def _patch_pca(deep: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components (48, count), their deviations (count,) and the mean (48,) of 4x4 patches."""
    patches = _pixels(deep)
    mean = patches.mean(dim=0)
    variances, vectors = torch.linalg.eigh(torch.cov((patches - mean).T.double()))
    return vectors.flip(1)[:, :count].float(), variances.flip(0)[:count].sqrt().float(), mean


def _space_to_depth_rows(channels: int) -> list[tuple[int, int, int]]:
    """(input channel, row, column) of each output of a 2x2 space-to-depth, in `pixel_unshuffle` order."""
    return [(channel, row, column) for channel in range(channels) for row in (0, 1) for column in (0, 1)]


def _start_encoder(vae: AutoencoderKL, components: Tensor, deviations: Tensor, mean: Tensor) -> None:
    encoder: Any = vae.encoder  # diffusers says of its blocks no more than that they are modules
    latent_channels = vae.config["latent_channels"]
    value, slope = _silu_value_and_slope()
    _pass_through(encoder.conv_in, 3)
    first, second = (block.downsamplers[0].conv for block in encoder.down_blocks[:2])
    first.weight[:12] = 0
    first.bias[:12] = 0
    for output, (channel, row, column) in enumerate(_space_to_depth_rows(3)):
        first.weight[output, channel, row, column] = 1
    _pass_through(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)

    # The components fill the second level; the third spreads them over the last norm's groups, each group with its
    # negative sum.
    kept = components.shape[1]
    second.weight.zero_()
    whitened = components / deviations
    for j, (channel, row, column) in enumerate(_space_to_depth_rows(12)):
        second.weight[:kept, channel, row, column] = whitened[j]
    second.bias.zero_()
    second.bias[:kept] = -whitened.T @ mean
    groups = encoder.conv_norm_out.num_groups
    per_group, data_per_group = encoder.conv_norm_out.num_channels // groups, kept // groups
    place = [(j // data_per_group) * per_group + j % data_per_group for j in range(kept)]
    shortcut = encoder.down_blocks[2].resnets[0].conv_shortcut
    shortcut.weight.zero_()
    shortcut.bias.zero_()
    for j in range(kept):
        shortcut.weight[place[j], j] = 1
        shortcut.weight[(j // data_per_group) * per_group + data_per_group, j] = -1
    _linear_norm(encoder.conv_norm_out, encoder.mid_block.resnets[1])

    out = encoder.conv_out
    out.weight.zero_()
    out.weight[range(latent_channels), place[:latent_channels], 1, 1] = 1 / slope
    out.bias[:latent_channels] = -value / slope
    out.bias[latent_channels:] = LOG_VARIANCE


def _start_decoder(
    vae: AutoencoderKL,
    components: Tensor,
    deviations: Tensor,
    mean: Tensor,
    crops: Tensor,
    shallow: Tensor,
    deep: Tensor,
) -> None:
    decoder: Any = vae.decoder
    latent_channels = vae.config["latent_channels"]
    _, slope = _silu_value_and_slope()
    decoder.conv_in.weight[:PATCH] = 0
    components, deviations = components[:, :latent_channels], deviations[:latent_channels]
    decoder.conv_in.weight[:PATCH, :latent_channels, 1, 1] = components * deviations
    decoder.conv_in.bias[:PATCH] = mean
    mean_image = mean[:, None, None]
    reconstructed = torch.einsum("bchw,cd->bdhw", deep - mean_image, components @ components.T) + mean_image
    first, second = (block.upsamplers[0].conv for block in decoder.up_blocks[:2])
    _fit_upsampler(second, _fit_upsampler(first, reconstructed, shallow), crops)
    _pass_through(decoder.up_blocks[1].resnets[0].conv_shortcut, 12)

    per_group = decoder.conv_norm_out.num_channels // decoder.conv_norm_out.num_groups
    last = decoder.up_blocks[2]
    shortcut = last.resnets[0].conv_shortcut
    shortcut.weight.zero_()
    shortcut.bias.zero_()
    _linear_norm(decoder.conv_norm_out, last.resnets[-1])
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    for colour in range(3):
        positive, negative = per_group * colour, per_group * colour + 1
        shortcut.weight[positive, colour] = 1
        shortcut.weight[negative, colour] = -1
        decoder.conv_out.weight[colour, positive, 1, 1] = 0.5 / slope
        decoder.conv_out.weight[colour, negative, 1, 1] = -0.5 / slope
