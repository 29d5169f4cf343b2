"""Stage 2, continued: the restorer through the frozen decoder, with the VAE's encoder adapted by LoRA.

Every loss is on pixels: L1 to the teacher, and distances of features of EfficientNet-Lite0
to the teacher and to the photograph itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.weights.lora_targets import vae_targets

from ...adapters import VAE_ADAPTER
from .autoencoder import decoded, posterior, scaling_factor
from .distil import HELD_OUT, Prompts, Restorer, Validation, enlarged, turned
from .loop import Stage, StageOptions
from .pairs import SCALE, Pairs
from .prior import RANK, scaled_start

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

WINDOW = 32  # px of the bad picture
BATCH = 6
ENCODER_RATE = 0.3  # of the learning rate of the UNet


@dataclass(frozen=True)
class PixelWeights:
    """Weights of the losses on images in [-1, 1]."""

    l1: float = 1.0  # to the teacher
    teacher_features: float = 0.3
    hq_features: float = 0.3


def adapt_encoder(vae: AutoencoderKL) -> list[torch.nn.Parameter]:
    """Put OSEDiff's adapters on the encoder, in place, but for its attention, which is to stay idle.

    Returns what is trained of the VAE.
    """
    from peft import LoraConfig

    targets = vae_targets(name for name, _ in vae.named_parameters() if ".attentions." not in name)
    vae.requires_grad_(False)
    vae.add_adapter(LoraConfig(r=RANK, target_modules=targets), adapter_name=VAE_ADAPTER)
    scaled_start(vae)
    return [parameter for parameter in vae.parameters() if parameter.requires_grad]


class PixelLoss:
    """The losses on windows of the pairs, in one of eight mirrored and turned ways."""

    def __init__(
        self, restorer: Restorer, vae: AutoencoderKL, prompts: Prompts, pairs: Pairs, weights: PixelWeights
    ) -> None:
        self.restorer, self.vae, self.prompts = restorer, vae, prompts
        self.pairs, self.weights, self.features = pairs, weights, FeatureDistance(0)

    def restored(self, lq: Tensor, embeds: Tensor) -> Tensor:
        """Enlarged LQ (B, 3, H, W) in [-1, 1] -> restored, with gradients."""
        factor = scaling_factor(self.vae)
        with torch.autocast("cpu", torch.bfloat16):
            latents = posterior(self.vae, lq).mode() * factor
            return decoded(self.vae, self.restorer(latents.float(), embeds) / factor).float()

    def drawn(self, rng: np.random.Generator) -> tuple[np.ndarray, Tensor, Tensor, Tensor]:
        """Numbers of BATCH pairs that are not held out, and a window of each: enlarged LQ, teacher, good; [-1, 1]."""
        chosen = rng.integers(HELD_OUT, len(self.pairs), BATCH)
        corners = rng.integers(0, self.pairs.lq.shape[-1] - WINDOW + 1, (BATCH, 2))
        variant = int(rng.integers(8))
        sides = []
        for images, scale in ((self.pairs.lq, 1), (self.pairs.teacher, SCALE), (self.pairs.hq, SCALE)):
            cut = [
                images[n, :, scale * y : scale * (y + WINDOW), scale * x : scale * (x + WINDOW)]
                for n, (y, x) in zip(chosen, corners, strict=True)
            ]
            sides.append(turned(torch.stack(cut), variant))
        lq, teacher, hq = sides
        return chosen, enlarged(lq), teacher / 127.5 - 1, hq / 127.5 - 1

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Loss terms and their weighted sum "loss" of one random batch."""
        chosen, lq, teacher, hq = self.drawn(rng)
        image = self.restored(lq, self.prompts.draw(chosen, rng))
        with torch.autocast("cpu", torch.bfloat16):
            ours = self.features.features(image)
            with torch.no_grad():
                theirs, good = self.features.features(teacher), self.features.features(hq)
        terms = {
            "l1": (image - teacher).abs().mean(),
            "teacher_features": feature_distance(ours, theirs),
            "hq_features": feature_distance(ours, good),
        }
        loss = sum((getattr(self.weights, name) * value for name, value in terms.items()), torch.zeros(()))
        return {"loss": loss, **terms}


def feature_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """`FeatureDistance` of unit-normalised features that are at hand."""
    each = [(a - b).square().sum(dim=1).mean() for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(each).mean()


def train_on_pixels(losses: PixelLoss, validation: Validation, folder: Path, options: StageOptions) -> None:
    """Train (or resume) UNet and encoder adapters, which are put on here; `validation` sees the same modules."""
    unet, vae = losses.restorer.unet, losses.vae
    groups = [
        {"params": list(unet.parameters())},
        {"params": adapt_encoder(vae), "lr": options.learning_rate * ENCODER_RATE},
    ]
    stage = Stage("pixels", folder, {"unet": unet, "vae": vae}, groups, options)
    stage.run(lambda _step, rng: losses.batch(rng), validation, validate_every=500)
