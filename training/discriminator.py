"""The GAN variant: a small head on the UNet's mid-block features tells restored latents from real ones.

As in DMD2 (arXiv 2405.14867, section 4.3): the fake score's own network is the discriminator's body, its adapters and
the head are trained, and both kinds of latents are noised first, which keeps the task from being trivial.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from osediff_core.schedule import NoiseSchedule

from .draws import Draws
from .vsd import NoiseModel


class Discriminator(nn.Module):
    """Logit of "real" for noised latents: features of `unet.mid_block`, then a convolution, norm, SiLU and a mean."""

    def __init__(self, unet: UNet2DConditionModel, width: int = 128) -> None:
        super().__init__()
        channels = unet.config["block_out_channels"][-1]
        self.head = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 1, 1),
        )
        self._features: list[Tensor] = []
        assert unet.mid_block is not None
        unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: Any) -> None:  # noqa: ANN401 - a hook's
        self._features.append(output)

    def forward(self, model: NoiseModel, z_t: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """z_t (B, C, h, w) through `model`, which must be the UNet given at first -> logits (B,)."""
        self._features.clear()
        model(z_t, timesteps, prompt_embeds)
        (features,) = self._features
        self._features.clear()
        return self.head(features.float()).float().mean(dim=(1, 2, 3))


def adversarial_gradient(
    latents: Tensor,
    schedule: NoiseSchedule,
    draws: Draws,
    discriminator: Discriminator,
    model: NoiseModel,
    prompt_embeds: Tensor,
) -> tuple[Tensor, Tensor]:
    """(gradient for `loss_with_gradient`, value) of the non-saturating loss softplus(-D(z_t)) at latents z_H.

    Computed by autograd.grad with respect to the latents alone: no parameter of the discriminator gets a gradient.
    """
    with torch.enable_grad():
        leaf = latents.detach().requires_grad_(True)
        z_t = schedule.add_noise(leaf, draws.noise, draws.timesteps)
        loss = F.softplus(-discriminator(model, z_t, draws.timesteps, prompt_embeds)).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient * gradient.numel() / 2, loss.detach()


def adversarial_loss(
    restored: Tensor,
    real: Tensor,
    schedule: NoiseSchedule,
    draws: Draws,
    discriminator: Discriminator,
    model: NoiseModel,
    prompt_embeds: Tensor,
) -> Tensor:
    """What the discriminator learns: softplus(-D(real)) + softplus(D(restored)); latents (B, C, h, w), no graph."""
    z_t = schedule.add_noise(
        torch.cat([real, restored]), draws.noise.repeat(2, 1, 1, 1), draws.timesteps.repeat(2)
    )
    logits = discriminator(model, z_t, draws.timesteps.repeat(2), prompt_embeds.repeat(2, 1, 1))
    for_real, for_restored = logits.chunk(2)
    return F.softplus(-for_real).mean() + F.softplus(for_restored).mean()
