"""The noise schedule: how z_t, x0 and the model's prediction belong together.

One equation, one function. The one-step generator and the score-distillation losses call the same functions,
so inference and training cannot drift apart. With abar = alphas_cumprod[t]:

    z_t = alpha_t x0 + sigma_t eps,    alpha_t = sqrt(abar),    sigma_t = sqrt(1 - abar)

(the OSEDiff paper, arXiv 2406.08177, writes beta_t for sigma_t).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import BaseModelError, first_line

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # that a base's scheduler may name
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class NoiseSchedule:
    """The cumulated signal share abar_t of every timestep, and what the noise predictor predicts.

    All methods compute in fp32 and return fp32 whatever the dtype of their input: at the last timestep of
    Stable Diffusion the x0 equation multiplies any rounding error of the prediction by 1 / alpha_T = 14.6.

    alphas_cumprod: (num_train_timesteps,) fp32, falling from nearly 1 to nearly 0.
    prediction_type: "epsilon" (the noise), "v_prediction" (alpha_t eps - sigma_t x0), "sample" (x0), or, of one-step
    methods that were trained so on any of these, "residual" (z_t - x0).
    """

    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Build the schedule from the fields of a diffusers `scheduler_config.json`.

        Only the fields that define the training noise are read (the sampler's own settings do not matter for
        one step). Raises BaseModelError if the schedule is of an unknown kind or never leaves any signal.
        """
        try:
            betas = _betas(config)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise BaseModelError(
                f"The scheduler's configuration is broken ({first_line(error)}); download the base again."
            ) from error
        if config.get("rescale_betas_zero_snr"):
            raise BaseModelError(
                "This base rescales its noise to zero signal at the last timestep, from which no image can "
                "be computed in one step; use a base such as SD 2.1-base that keeps some signal."
            )
        prediction_type = str(config.get("prediction_type", "epsilon"))
        if prediction_type not in PREDICTION_TYPES:
            raise BaseModelError(
                f"The scheduler's prediction_type is {prediction_type!r}; use a base with one of "
                f"{', '.join(PREDICTION_TYPES)}."
            )
        alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
        if betas.ndim != 1 or not ((betas > 0) & (betas < 1) & (alphas_cumprod > 0)).all():
            raise BaseModelError(
                "The schedule of this base does not add some noise and leave some signal at every timestep; use a base "
                "such as SD 2.1-base."
            )
        return cls(alphas_cumprod, prediction_type)

    @property
    def num_timesteps(self) -> int:
        """Number of training timesteps; the last one is `num_timesteps - 1` (999 for Stable Diffusion)."""
        return len(self.alphas_cumprod)

    def alpha(self, timesteps: int | Tensor, device: torch.device | None = None) -> Tensor:
        """alpha_t = sqrt(abar_t): the clean latents' factor. timesteps int or (B,) -> (B, 1, 1, 1) fp32."""
        return self._abar(timesteps, device).sqrt()

    def sigma(self, timesteps: int | Tensor, device: torch.device | None = None) -> Tensor:
        """sigma_t = sqrt(1 - abar_t): the factor of the noise. timesteps int or (B,) -> (B, 1, 1, 1) fp32."""
        return (1.0 - self._abar(timesteps, device)).sqrt()

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """z_t = alpha_t x0 + sigma_t noise. x0, noise (B, C, H, W) -> fp32 of the same shape."""
        alpha, sigma = self.alpha(timesteps, x0.device), self.sigma(timesteps, x0.device)
        return alpha * x0.float() + sigma * noise.float()

    def predict_x0(self, z_t: Tensor, model_output: Tensor, timesteps: int | Tensor) -> Tensor:
        """The clean latents that a prediction implies; for epsilon: x0 = (z_t - sigma_t eps) / alpha_t.

        This at t = T is the whole OSEDiff step (paper eq. 1). z_t, model_output (B, C, H, W) -> fp32, same shape.
        """
        alpha, sigma = self.alpha(timesteps, z_t.device), self.sigma(timesteps, z_t.device)
        z_t, model_output = z_t.float(), model_output.float()
        if self.prediction_type == "epsilon":
            return (z_t - sigma * model_output) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * z_t - sigma * model_output
        if self.prediction_type == "residual":
            return z_t - model_output
        return model_output

    def predict_eps(self, z_t: Tensor, x0: Tensor, timesteps: int | Tensor) -> Tensor:
        """The noise between clean and noisy latents, fp32: eps = (z_t - alpha_t x0) / sigma_t."""
        alpha, sigma = self.alpha(timesteps, z_t.device), self.sigma(timesteps, z_t.device)
        return (z_t.float() - alpha * x0.float()) / sigma

    def _abar(self, timesteps: int | Tensor, device: torch.device | None) -> Tensor:
        # The table goes to the index, or the value to the device: the other way would wait for the accelerator.
        if isinstance(timesteps, int):
            return self.alphas_cumprod[timesteps].reshape(1, 1, 1, 1).to(device)
        t = timesteps.to(device)
        return self.alphas_cumprod.to(t.device)[t.long()].reshape(-1, 1, 1, 1)


def _betas(config: Mapping[str, Any]) -> Tensor:
    """The per-step noise variances, computed in fp32 with the operations of diffusers' schedulers."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float32)
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "scaled_linear":  # Stable Diffusion
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    if kind == "squaredcos_cap_v2":

        def abar(share: float) -> float:
            return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - abar((i + 1) / steps) / abar(i / steps), 0.999) for i in range(steps)]
        return torch.tensor(betas, dtype=torch.float32)
    raise BaseModelError(
        f"The scheduler's beta_schedule is {kind!r}; use a base with one of {', '.join(BETA_SCHEDULES)}."
    )
