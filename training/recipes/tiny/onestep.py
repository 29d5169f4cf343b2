"""Stage 3: the one-step generator as LoRA on the frozen base, trained through the core's own verbs.

The decoder, the text encoder and the base weights stay frozen; trained are the LoRA of the VAE encoder and of
the UNet, and the UNet's conv_in, as in OSEDiff. The losses are pixel, gradient and feature losses; score distillation
follows in stage 4, by the trainer itself (training/configs/tiny_further.yaml).

The step is taken at TIMESTEP, not at the last one: x0 = (z - sigma eps) / alpha multiplies the UNet's error by
sigma / alpha, which is 14.6 at t = 999 and 0.7 at t = 249. A network of a few million parameters cannot copy its
input to the precision that 14.6 asks for. The timestep is part of the weights file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr_y
from osediff_core.generator import OneStepGenerator
from osediff_core.weights.formats.osediff import lora_scale
from training.adapters import attach_peft

from ...data.appearance import appearance_tags
from ...data.pictures import to_tensor
from .degrade import CAMERA, INTERNET, degrade, enlarge
from .loop import Stage, StageOptions
from .photos import PhotoPool
from .vae import gradient_difference

TIMESTEP = 249
RANK = 32  # of the VAE encoder's and the UNet's LoRA
PROMPT_DROPOUT = 0.5
CAMERA_SHARE = 0.4
CONV_IN_RATE = 0.1  # of the learning rate of the LoRA


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms on images in [-1, 1]."""

    mse: float = 2.0
    l1: float = 0.5
    gradient: float = 0.25
    features: float = 0.4


def pair(pool: PhotoPool, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(enlarged LQ, HQ), both uint8 (size, size, 3)."""
    hq = pool.crop(size, rng, shrink=2 if rng.random() < 0.25 else 1)
    ranges = CAMERA if rng.random() < CAMERA_SHARE else INTERNET
    return enlarge(degrade(hq, ranges, rng)), hq


def attach(generator: OneStepGenerator, learning_rate: float) -> list[dict]:
    """Put the adapters on `generator`'s diffusers modules; returns what AdamW is to train.

    Every LoRA A is drawn so that scale * A has the variance of a fresh layer, and B is zero: the official scale
    is 8 / rank, and at high rank peft's own start would make the first updates tiny.
    """
    unet, vae = generator.unet.module, generator.vae.module
    attach_peft(unet, vae, RANK, RANK)
    lora = [
        parameter for module in (unet, vae) for parameter in module.parameters() if parameter.requires_grad
    ]
    for module in (unet, vae):
        for name, parameter in module.named_parameters():
            if ".lora_A." in name:
                nn.init.normal_(parameter, std=1 / (lora_scale(RANK) * math.sqrt(parameter[0].numel())))
    conv_in = list(unet.conv_in.base_layer.parameters())
    for parameter in conv_in:
        parameter.requires_grad_(True)
    return [{"params": lora}, {"params": conv_in, "lr": learning_rate * CONV_IN_RATE}]


class OneStepLoss:
    """The losses of one batch, and the figures of the validation pairs."""

    def __init__(self, generator: OneStepGenerator, pool: PhotoPool, weights: LossWeights) -> None:
        self.generator, self.pool, self.weights = generator, pool, weights
        self.trained_on, self.reported = FeatureDistance(0), FeatureDistance(2)

    def restore(self, lq: Tensor, prompts: list[str]) -> Tensor:
        """Enlarged LQ (B, 3, H, W) in [-1, 1] -> restored, with gradients."""
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.generator.encode(lq)
            latents = self.generator.denoise(latents, self.generator.encode_prompt(prompts))
            return self.generator.decode(latents).float()

    def batch(self, size: int, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Loss terms and their weighted sum "loss" for `count` new pairs of `size` px."""
        pairs = [pair(self.pool, size, rng) for _ in range(count)]
        lq, hq = (to_tensor(np.stack(side)) for side in zip(*pairs, strict=True))
        prompts = [
            "" if rng.random() < PROMPT_DROPOUT else ", ".join(appearance_tags(picture))
            for _, picture in pairs
        ]
        restored = self.restore(lq, prompts)
        error = restored - hq
        with torch.autocast("cpu", torch.bfloat16):
            distance = self.trained_on(restored, hq).mean()
        terms = {
            "mse": error.square().mean(),
            "l1": error.abs().mean(),
            "gradient": gradient_difference(restored, hq),
            "features": distance,
        }
        return {"loss": sum(getattr(self.weights, name) * value for name, value in terms.items()), **terms}

    def compare(self, name: str, lq: Tensor, hq: Tensor) -> dict[str, float]:
        """PSNR-Y gain in dB and D2 ratio against the enlarged LQ, both (B, 3, H, W); empty prompt, no colour fix."""
        ours = torch.cat([self.restore(one[None], [""]) for one in lq])
        return {
            f"{name}_psnr_gain": float((psnr_y(ours, hq) - psnr_y(lq, hq)).mean()),
            f"{name}_d2_ratio": float(self.reported(ours, hq).mean() / self.reported(lq, hq).mean()),
        }


def train_onestep(
    generator: OneStepGenerator,
    pool: PhotoPool,
    validation: dict[str, tuple[Tensor, Tensor]],
    folder: Path,
    options: StageOptions,
    weights: LossWeights,
) -> None:
    """Train (or resume) adapters inside `generator`'s VAE and UNet, which must be diffusers modules.

    validation: name -> (enlarged LQ, HQ), each (B, 3, H, W) in [-1, 1].
    """
    torch.manual_seed(options.seed)
    groups = attach(generator, options.learning_rate)
    modules = {"unet": generator.unet.module, "vae": generator.vae.module}
    stage = Stage("onestep", folder, modules, groups, options)
    losses = OneStepLoss(generator, pool, weights)

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        size, count = (96, 5) if stage.progress() < 0.5 else (128, 3)
        return losses.batch(size, count, rng)

    def validate() -> dict[str, float]:
        found: dict[str, float] = {}
        for name, (lq, hq) in validation.items():
            found |= losses.compare(name, lq, hq)
        return found

    stage.run(loss, validate, validate_every=500)
