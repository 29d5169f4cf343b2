"""The noise schedule against diffusers' schedulers, and its equations against each other."""

from __future__ import annotations

import math

import pytest
import torch

from osediff_core.errors import BaseModelError
from osediff_core.schedule import NoiseSchedule

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
T = 999


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_alphas_cumprod_are_those_of_diffusers(beta_schedule: str) -> None:
    from diffusers import DDPMScheduler

    config = {**SD, "beta_schedule": beta_schedule}
    ours = NoiseSchedule.from_config(config).alphas_cumprod
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, DDPMScheduler.from_config(config).alphas_cumprod, rtol=1e-6, atol=1e-8)


def test_the_last_timestep_has_the_official_numbers() -> None:
    schedule = NoiseSchedule.from_config(SD)
    assert schedule.num_timesteps == 1000
    assert schedule.alphas_cumprod[T].item() == pytest.approx(0.0046601, abs=1e-7)
    assert (schedule.sigma(T) / schedule.alpha(T)).item() == pytest.approx(14.6146, abs=1e-4)


def test_trained_betas_are_taken_as_they_are() -> None:
    schedule = NoiseSchedule.from_config({"trained_betas": [0.1, 0.2]})
    torch.testing.assert_close(schedule.alphas_cumprod, torch.tensor([0.9, 0.72]))


def test_x0_and_eps_are_each_others_inverse_at_every_sample_s_own_timestep() -> None:
    schedule = NoiseSchedule.from_config(SD)
    x0, eps = torch.randn(3, 8, 4, 5), torch.randn(3, 8, 4, 5)
    t = torch.tensor([20, 500, 979])
    z_t = schedule.add_noise(x0, eps, t)
    for i in range(3):
        a = schedule.alphas_cumprod[t[i]].item()
        torch.testing.assert_close(z_t[i], math.sqrt(a) * x0[i] + math.sqrt(1 - a) * eps[i])
    torch.testing.assert_close(schedule.predict_x0(z_t, eps, t), x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(schedule.predict_eps(z_t, x0, t), eps, rtol=1e-4, atol=1e-4)


def test_all_prediction_types_lead_to_the_same_x0() -> None:
    x0, eps, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([100, 700])
    epsilon = NoiseSchedule.from_config(SD)
    velocity = NoiseSchedule.from_config({**SD, "prediction_type": "v_prediction"})
    sample = NoiseSchedule.from_config({**SD, "prediction_type": "sample"})
    z_t = epsilon.add_noise(x0, eps, t)
    v = epsilon.alpha(t) * eps - epsilon.sigma(t) * x0
    for schedule, output in ((epsilon, eps), (velocity, v), (sample, x0)):
        torch.testing.assert_close(schedule.predict_x0(z_t, output, t), x0, rtol=1e-4, atol=1e-5)


def test_half_precision_input_is_computed_in_fp32() -> None:
    schedule = NoiseSchedule.from_config(SD)
    z, eps = torch.randn(1, 4, 8, 8).half(), torch.randn(1, 4, 8, 8).half()
    x0 = schedule.predict_x0(z, eps, T)
    assert x0.dtype == torch.float32
    assert torch.equal(x0, schedule.predict_x0(z.float(), eps.float(), T))


def test_gradients_pass() -> None:
    schedule = NoiseSchedule.from_config(SD)
    eps = torch.randn(1, 4, 2, 2, requires_grad=True)
    schedule.predict_x0(torch.randn(1, 4, 2, 2), eps, T).sum().backward()
    torch.testing.assert_close(eps.grad, torch.full_like(eps, -14.6146), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "change",
    [{"beta_schedule": "sigmoid"}, {"prediction_type": "flow"}, {"rescale_betas_zero_snr": True}],
)
def test_an_unusable_schedule_is_refused(change: dict) -> None:
    with pytest.raises(BaseModelError):
        NoiseSchedule.from_config({**SD, **change})
