"""Stage 3: the one-step generator as LoRA on the frozen base, trained through the core's own verbs.

The decoder, the text encoder and the base weights stay frozen; trained are the LoRA of the VAE encoder and of
the UNet, and the UNet's conv_in, as in OSEDiff. The losses are pixel, gradient and feature losses; there is no
score distillation in this version.

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

from osediff_core.generator import OneStepGenerator
from osediff_core.lora import attach_peft, lora_scale

from .degrade import CAMERA, INTERNET, Degradation, degrade, enlarge
from .loop import Stage, StageOptions
from .metrics import psnr_y
from .perceptual import FeatureDistance
from .photos import PhotoPool, to_tensor
from .tags import appearance_tags
from .vae import gradient_difference

TIMESTEP = 249
RANK_UNET, RANK_VAE = 32, 32
PROMPT_DROPOUT = 0.5
CAMERA_SHARE = 0.4


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
    ranges: Degradation = CAMERA if rng.random() < CAMERA_SHARE else INTERNET
    return enlarge(degrade(hq, ranges, rng)), hq


def initialise(modules: list[nn.Module]) -> None:
    """Draw every LoRA A so that scale * A has the variance of a fresh layer, and keep B at zero.

    The official scale is 8 / rank; at high rank, peft's own start would make the first updates tiny.
    """
    for module in modules:
        for name, parameter in module.named_parameters():
            if ".lora_A." in name:
                fan_in = parameter[0].numel()
                nn.init.normal_(parameter, std=1 / (lora_scale(parameter.shape[0]) * math.sqrt(fan_in)))


def train_onestep(
    generator: OneStepGenerator,
    pool: PhotoPool,
    validation: dict[str, tuple[Tensor, Tensor]],
    folder: Path,
    options: StageOptions,
    weights: LossWeights,
) -> Stage:
    """Train (or resume) the adapters inside `generator`'s VAE and UNet, which are diffusers modules.

    validation: name -> (enlarged LQ, HQ), each (B, 3, H, W) in [-1, 1].
    """
    torch.manual_seed(options.seed)
    unet, vae = generator.unet.module, generator.vae.module
    attach_peft(unet, vae, RANK_UNET, RANK_VAE)
    initialise([unet, vae])
    conv_in = list(unet.conv_in.base_layer.parameters())
    for parameter in conv_in:
        parameter.requires_grad_(True)
    own = {id(parameter) for parameter in conv_in}
    lora = [p for module in (unet, vae) for p in module.parameters() if p.requires_grad and id(p) not in own]
    groups = [{"params": lora}, {"params": conv_in, "lr": options.learning_rate * 0.1}]
    stage = Stage("onestep", folder, {"unet": unet, "vae": vae}, groups, options)
    features, reported = FeatureDistance(0), FeatureDistance(2)
    prompts: dict[str, Tensor] = {}

    def embeds(texts: list[str]) -> Tensor:
        for text in set(texts) - prompts.keys():
            with torch.no_grad():
                prompts[text] = generator.encode_prompt([text])[0].clone()
        return torch.stack([prompts[text] for text in texts])

    def restore(lq: Tensor, texts: list[str]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            latents = generator.denoise(generator.encode(lq), embeds(texts))
            return generator.decode(latents).float()

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        size, count = (96, 5) if stage.progress() < 0.5 else (128, 3)
        pairs = [pair(pool, size, rng) for _ in range(count)]
        lq, hq = (to_tensor(np.stack(side)) for side in zip(*pairs, strict=True))
        texts = [
            "" if rng.random() < PROMPT_DROPOUT else ", ".join(appearance_tags(picture))
            for _, picture in pairs
        ]
        restored = restore(lq, texts)
        error = restored - hq
        with torch.autocast("cpu", torch.bfloat16):
            distance = features(restored, hq).mean()
        terms = {
            "mse": error.square().mean(),
            "l1": error.abs().mean(),
            "gradient": gradient_difference(restored, hq),
            "features": distance,
        }
        return {"loss": sum(getattr(weights, name) * value for name, value in terms.items()), **terms}

    def validate() -> dict[str, float]:
        found = {}
        for name, (lq, hq) in validation.items():
            ours = torch.cat([restore(one[None], [""]) for one in lq])
            found[f"{name}_psnr_gain"] = float((psnr_y(ours, hq) - psnr_y(lq, hq)).mean())
            found[f"{name}_d2_ratio"] = float(reported(ours, hq).mean() / reported(lq, hq).mean())
        return found

    stage.run(loss, validate, validate_every=500)
    return stage
