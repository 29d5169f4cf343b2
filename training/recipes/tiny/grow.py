"""The start of a restorer from the first embedded model, whose shape was another; it saves most of the way.

Blocks that both have are copied, those that are new begin as the identity, and ridge regressions fit the two ends to
the new VAE's latents: `conv_in` to what the old one gave for the same pictures, `conv_out` to the teacher's latents.
The old UNet (64, 128) has one layer a level and attention at half the latents' resolution, which the new one has not.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from osediff_core.backends.networks import DiffusersUNet
from osediff_core.generator import OneStepGenerator

from .distil import HELD_OUT, TIMESTEP, VARIANTS, Latents, Prompts, Restorer, enlarged, turned
from .linear_start import ridge
from .pairs import Pairs

PICTURES = 40  # that the ends are fitted to
FAINT = 0.05  # of the old weights on what comes up from the new lowest level, which says nothing yet


@torch.no_grad()
def grow(restorer: Restorer, prompts: Prompts, latents: Latents, pairs: Pairs, old: OneStepGenerator) -> None:
    """Set the weights of `restorer.unet` by those of `old`, whose one-step weights are merged."""
    # diffusers says of its blocks no more than that they are modules
    unet: Any = restorer.unet
    before: Any = cast("DiffusersUNet", old.unet).module
    _make_identities(unet)
    _copy_time(unet, before, old.timestep)
    _copy_blocks(unet, before)
    _fit_conv_in(unet, old, latents, pairs)
    _fit_conv_out(restorer, prompts, latents)


def _copy(new: nn.Module, old: nn.Module) -> None:
    new.load_state_dict(old.state_dict())


def _make_identities(unet: Any) -> None:  # noqa: ANN401
    """Let every residual branch give zero, and shortcuts past skip connections pass on what comes from below."""
    for name, parameter in unet.named_parameters():
        if ".conv2." in name or ".proj_out." in name:
            nn.init.zeros_(parameter)
    for resnet in unet.up_blocks[2].resnets[1:4]:
        shortcut = resnet.conv_shortcut
        nn.init.zeros_(shortcut.bias)
        shortcut.weight.copy_(torch.eye(*shortcut.weight.shape[:2])[..., None, None])


def _copy_time(unet: Any, before: Any, timestep: int) -> None:  # noqa: ANN401
    """Make the embedding of TIMESTEP what that of `timestep` was."""
    _copy(unet.time_embedding, before.time_embedding)
    then, now = (before.time_proj(torch.tensor([t]))[0] for t in (timestep, TIMESTEP))
    unet.time_embedding.linear_1.bias += before.time_embedding.linear_1.weight @ (then - now)


def _copy_blocks(unet: Any, before: Any) -> None:  # noqa: ANN401
    _copy(unet.down_blocks[0].resnets[0], before.down_blocks[0].resnets[0])
    _copy(unet.down_blocks[0].downsamplers, before.down_blocks[0].downsamplers)
    _copy(unet.down_blocks[1].resnets[0], before.down_blocks[1].resnets[0])
    for number in (0, 1):
        _copy(unet.up_blocks[1].resnets[number], before.up_blocks[0].resnets[number])
    _copy(unet.up_blocks[1].upsamplers, before.up_blocks[0].upsamplers)
    _copy(unet.up_blocks[2].resnets[0], before.up_blocks[1].resnets[0])
    _copy(unet.up_blocks[2].resnets[4], before.up_blocks[1].resnets[1])
    _copy(unet.conv_norm_out, before.conv_norm_out)

    # The old level's input from below was about its skip connection; now something else comes from below.
    first = unet.up_blocks[1].resnets[0]
    half = first.norm1.num_channels // 2
    gain = (first.norm1.weight[:half] / first.norm1.weight[half:].clamp(min=0.1)).clamp(-2, 2)
    for conv, factor in ((first.conv1, gain[:, None, None]), (first.conv_shortcut, 1)):
        conv.weight[:, half:] += conv.weight[:, :half] * factor
        conv.weight[:, :half] *= FAINT


def _patches(images: Tensor) -> Tensor:
    return rearrange(F.unfold(images, 3, padding=1), "b d n -> (b n) d")


def _set_conv(conv: nn.Conv2d, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    """Fit a 3x3 convolution that maps each of `inputs` (1, C, h, w) to that of `outputs` (1, D, h, w)."""
    targets = torch.cat([rearrange(each, "b c h w -> (b h w) c") for each in outputs])
    weight, bias = ridge(torch.cat([_patches(each) for each in inputs]), targets)
    conv.weight.copy_(weight.T.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(bias)


def _numbers(latents: Latents) -> range:
    """Of the first latents that are not held out, one a pair."""
    last = min((HELD_OUT + PICTURES) * VARIANTS, len(latents.lq))
    return range(HELD_OUT * VARIANTS, last, VARIANTS)


def _fit_conv_in(unet: Any, old: OneStepGenerator, latents: Latents, pairs: Pairs) -> None:  # noqa: ANN401
    before: Any = cast("DiffusersUNet", old.unet).module
    inputs, outputs = [], []
    for number in _numbers(latents):
        lq = turned(enlarged(pairs.lq[number // VARIANTS][None]), int(latents.variants[number]))
        inputs.append(latents.lq[number][None].float())
        outputs.append(before.conv_in(old.encode(lq)))
    _set_conv(unet.conv_in, inputs, outputs)


def _fit_conv_out(restorer: Restorer, prompts: Prompts, latents: Latents) -> None:
    unet: Any = restorer.unet
    schedule, features = restorer.schedule, []
    alpha, sigma = float(schedule.alpha(TIMESTEP)), float(schedule.sigma(TIMESTEP))
    hook = unet.conv_out.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0].float()))
    noises = []
    for number in _numbers(latents):
        z, teacher = (side[number][None].float() for side in (latents.lq, latents.teacher))
        restorer(z, prompts.none(1))
        noises.append((z - alpha * teacher) / sigma)
    hook.remove()
    _set_conv(unet.conv_out, features, noises)
