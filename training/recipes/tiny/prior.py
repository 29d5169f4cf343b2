"""Stage 3: the base is made out of the restorer, so that base and weights together are the restorer exactly.

A latent prior (noise prediction at all timesteps, with prompts) is trained as a LoRA and a conv_in on the restorer's
UNet. Merged, they are the base; the LoRA taken off again, and the restorer's own conv_in, are the one-step weights.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from osediff_core.schedule import NoiseSchedule
from osediff_core.weights.formats.osediff import lora_scale
from osediff_core.weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights

from ...adapters import attach_peft, weights_from_peft
from .architecture import SCHEDULER_CONFIG
from .distil import HELD_OUT, TIMESTEP, Latents, Prompts
from .loop import Stage, StageOptions

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

RANK = 32  # of the LoRA of UNet and VAE encoder
WINDOW = 32  # latents
BATCH = 8


class PriorLoss:
    """Mean squared error of the noise that `unet` predicts on windows of the good pictures' latents."""

    def __init__(self, unet: nn.Module, prompts: Prompts, latents: Latents) -> None:
        self.unet, self.prompts, self.hq = unet, prompts, latents.hq
        self.schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG)

    def error(self, x0: Tensor, noise: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """x0, noise (B, C, h, w), timesteps (B,), embeds (B, L, D) -> a scalar."""
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.unet(self.schedule.add_noise(x0, noise, timesteps), timesteps, embeds).sample
        return (predicted.float() - noise).square().mean()

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The loss of one random batch of pairs that are not held out."""
        chosen = rng.integers(HELD_OUT, len(self.hq), BATCH)
        corners = rng.integers(0, self.hq.shape[-1] - WINDOW + 1, (BATCH, 2))
        x0 = torch.stack(
            [self.hq[n, :, y : y + WINDOW, x : x + WINDOW] for n, (y, x) in zip(chosen, corners, strict=True)]
        ).float()
        timesteps = torch.from_numpy(rng.integers(0, self.schedule.num_timesteps, BATCH))
        return {"loss": self.error(x0, torch.randn(x0.shape), timesteps, self.prompts.draw(chosen, rng))}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The error on held-out pictures with their prompts and with empty ones, on the same noise."""
        x0 = self.hq[:HELD_OUT].float()
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
        timesteps = torch.linspace(10, 990, len(x0)).long()
        embeds = {"val_tags": self.prompts.embeds[: len(x0)].float(), "val_empty": self.prompts.none(len(x0))}
        return {name: float(self.error(x0, noise, timesteps, each)) for name, each in embeds.items()}


def train_prior(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    prompts: Prompts,
    latents: Latents,
    folder: Path,
    options: StageOptions,
) -> OneStepWeights:
    """Make the base out of the restorer `unet`, in place, and return the one-step weights that lead back to it.

    vae: with the restorer's adapters on its encoder, which are part of the weights.
    """
    torch.manual_seed(options.seed)
    own_conv_in = {name: tensor.detach().clone() for name, tensor in unet.conv_in.named_parameters()}
    attach_peft(unet, vae, RANK, vae_modules=())
    scaled_start(unet)
    unet.conv_in.requires_grad_(False)  # the weights replace it whole, so its LoRA stays zero
    unet.conv_in.base_layer.requires_grad_(True)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    stage = Stage("prior", folder, {"unet": unet}, [{"params": trained}], options)
    losses = PriorLoss(unet, prompts, latents)
    stage.run(lambda _step, rng: losses.batch(rng), losses.validate, validate_every=500)
    weights = weights_from_peft(unet, vae, {"timestep": str(TIMESTEP)}, conv_in=own_conv_in)
    unet.fuse_lora()
    unet.unload_lora()
    unet.requires_grad_(False)
    return _reversed(weights)


def scaled_start(module: nn.Module) -> None:
    """Draw every LoRA A so that scale * A has the variance of a fresh layer; B stays zero.

    The official scale is 8 / rank, and at high rank peft's own start would make the first updates tiny.
    """
    for name, parameter in module.named_parameters():
        if ".lora_A." in name:
            nn.init.normal_(parameter, std=1 / (lora_scale(RANK) * math.sqrt(parameter[0].numel())))


def _reversed(weights: OneStepWeights) -> OneStepWeights:
    """The UNet's LoRA with its sign changed."""
    lora = weights.unet_lora
    pairs = {name: LoRAPair(pair.A, -pair.B) for name, pair in lora.items()}
    turned = LoRASet(pairs, rank=lora.rank, scale=lora.scale, name=lora.name)
    return replace(weights, unet_sets=(turned,))
