"""Distribution matching in latent space: which way the generator's latents should move.

All of it computes with x0 predictions at a noised z_t = alpha_t z_H + sigma_t n (arXiv 2406.08177, section 3; the
weighting is that of DMD, arXiv 2311.18828, eq. 8):

    grad = (x0_fake - x0_real) / mean |z_H - x0_real|

x0_real is the frozen teacher's with classifier-free guidance. What x0_fake is makes the variants:

    vsd   the prediction of the regulariser, which learns the generator's own outputs
    csd   the teacher's without the prompt (its negative prompt's): nothing to train
    sds   z_H itself, as if the regulariser had predicted the very noise that was added

sds-dreamfusion is SDS with the weighting of its paper (DreamFusion, arXiv 2209.14988, eq. 3), which takes no account of
how far the prediction is: grad = sigma_t^2 (eps_real - n). Large timesteps then weigh more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.schedule import NoiseSchedule

from .draws import Draws

# (latents z_t, timesteps, prompt_embeds) -> predicted noise
NoiseModel = Callable[[Tensor, Tensor, Tensor], Tensor]

_SMALLEST_WEIGHT = 1e-4  # where z_H equals x0_real the official code divides by zero


def guided(eps_negative: Tensor, eps_prompt: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance in fp32: eps_negative + scale (eps_prompt - eps_negative)."""
    return eps_negative.float() + scale * (eps_prompt.float() - eps_negative.float())


def matching_gradient(latents: Tensor, x0_fake: Tensor, x0_real: Tensor) -> Tensor:
    """(x0_fake - x0_real) / mean |latents - x0_real|, the mean taken per sample; all (B, C, h, w), fp32."""
    weight = (latents - x0_real).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (x0_fake - x0_real) / weight.clamp_min(_SMALLEST_WEIGHT)


def loss_with_gradient(latents: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose derivative by `latents` is 2 gradient / numel: MSE(z, sg(z - gradient)), value mean(gradient^2).

    The value does not fall when training goes well; it says how far the two distributions' scores are apart.
    """
    return F.mse_loss(latents, (latents - gradient).detach())


@torch.no_grad()
def distillation_gradient(
    kind: str,
    latents: Tensor,
    schedule: NoiseSchedule,
    draws: Draws,
    teacher: NoiseModel,
    fake: NoiseModel,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    guidance: float,
) -> Tensor:
    """The gradient of `kind` (vsd, csd, sds, sds-dreamfusion) for scaled latents z_H (B, C, h, w), fp32, without graph.

    prompt_embeds, negative_embeds (B, L, D). draws.timesteps (B,), draws.noise of the latents' shape.
    """
    timesteps = draws.timesteps
    z_t = schedule.add_noise(latents, draws.noise, timesteps)
    both = teacher(
        torch.cat([z_t, z_t]),
        torch.cat([timesteps, timesteps]),
        torch.cat([negative_embeds, prompt_embeds]),
    )
    eps_negative, eps_prompt = both.float().chunk(2)
    eps_real = guided(eps_negative, eps_prompt, guidance)
    if kind == "sds-dreamfusion":
        return schedule.sigma(timesteps, latents.device).square() * (eps_real - draws.noise.float())
    x0_real = schedule.predict_x0(z_t, eps_real, timesteps)
    if kind == "sds":
        x0_fake = latents.float()
    else:
        eps_fake = eps_negative if kind == "csd" else fake(z_t, timesteps, prompt_embeds)
        x0_fake = schedule.predict_x0(z_t, eps_fake, timesteps)
    return matching_gradient(latents, x0_fake, x0_real)


def diffusion_loss(
    latents: Tensor, schedule: NoiseSchedule, draws: Draws, model: NoiseModel, prompt_embeds: Tensor
) -> Tensor:
    """What the regulariser learns: MSE(eps(z_t; t, c), n) on the generator's latents, which must carry no graph."""
    z_t = schedule.add_noise(latents, draws.noise, draws.timesteps)
    return F.mse_loss(model(z_t, draws.timesteps, prompt_embeds).float(), draws.noise)
