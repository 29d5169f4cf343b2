"""Gradients of score distillation against their papers' formulas, computed with diffusers' scheduler."""

import pytest
import torch
from diffusers import DDPMScheduler

from osediff_core.schedule import NoiseSchedule
from training.draws import Draws
from training.vsd import distillation_gradient, loss_with_gradient

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 6, 6, generator=generator)[:, :2]
    prompt, negative = torch.randn(2, 2, 5, 8, generator=generator)
    mixing = torch.randn(4, 4, generator=generator) / 2

    def teacher(z_t, timesteps, embeds):
        said = embeds.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return torch.einsum("dc,bchw->bdhw", mixing, z_t) + said + timesteps.view(-1, 1, 1, 1) / 1000

    return z, noise, torch.tensor([37, 480]), prompt, negative, teacher


def gradient(kind, case, fake=None, guidance=7.5):
    z, noise, timesteps, prompt, negative, teacher = case
    schedule = NoiseSchedule.from_config(CONFIG)
    return distillation_gradient(
        kind, z, schedule, Draws(noise, timesteps), teacher, fake or teacher, prompt, negative, guidance
    )


def predictions(case):
    """(scheduler, z_t, unconditional, guided) as PiSA-SR's CSDLoss computes them."""
    z, noise, timesteps, prompt, negative, teacher = case
    scheduler = DDPMScheduler(**CONFIG)
    z_t = scheduler.add_noise(z, noise, timesteps)
    unconditional, text = teacher(
        torch.cat([z_t] * 2), torch.cat([timesteps] * 2), torch.cat([negative, prompt])
    ).chunk(2)
    return scheduler, z_t, unconditional, unconditional + 7.5 * (text - unconditional)


def x0(scheduler, z_t, eps, timesteps):
    abar = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return (z_t - (1 - abar) ** 0.5 * eps) / abar**0.5


def test_csd_is_that_of_pisa_sr(case):
    """Loss and gradient of its `cal_csd` (arXiv 2412.03017, eq. 8): fake is the unconditional prediction."""
    z, _, timesteps, *_ = case
    scheduler, z_t, unconditional, guided = predictions(case)
    real, fake = (x0(scheduler, z_t, eps, timesteps) for eps in (guided, unconditional))
    weight = (z - real).abs().mean(dim=[1, 2, 3], keepdim=True)
    theirs, ours = (z.clone().requires_grad_() for _ in range(2))
    expected = torch.nn.functional.mse_loss(theirs, (theirs - (fake - real) / weight).detach())
    found = loss_with_gradient(ours, gradient("csd", case))
    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_sds_in_dreamfusions_weighting(case):
    _, noise, timesteps, *_ = case
    scheduler, _, _, guided = predictions(case)
    weight = 1 - scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(gradient("sds-dreamfusion", case), weight * (guided - noise))


def test_sds_as_dmd_weights_it_points_the_same_way(case):
    z, _, timesteps, *_ = case
    scheduler, z_t, _, guided = predictions(case)
    real = x0(scheduler, z_t, guided, timesteps)
    expected = (z - real) / (z - real).abs().mean(dim=[1, 2, 3], keepdim=True)
    found = gradient("sds", case)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for one, other in zip(found, gradient("sds-dreamfusion", case), strict=True):
        assert float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)) == pytest.approx(
            1, abs=1e-3
        )


def test_vsd_takes_the_fake_score(case):
    z, _, timesteps, prompt, *_ = case

    def fake(z_t, timesteps, embeds):
        assert torch.equal(embeds, prompt)
        return 0.3 * z_t

    scheduler, z_t, _, guided = predictions(case)
    real, made = (x0(scheduler, z_t, eps, timesteps) for eps in (guided, 0.3 * z_t))
    expected = (made - real) / (z - real).abs().mean(dim=[1, 2, 3], keepdim=True)
    torch.testing.assert_close(gradient("vsd", case, fake), expected, atol=1e-4, rtol=1e-4)
