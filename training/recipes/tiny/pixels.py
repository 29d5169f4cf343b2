"""Stage 2, continued: the restorer through the frozen decoder, with the VAE's encoder adapted by LoRA.

Every loss is on pixels: L1 to the teacher, and at shares of the gradient distances of features of EfficientNet-Lite0
to the teacher and to the photograph itself, and a discriminator on the same features, to whom either of both is real.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from osediff_core.evaluate.perceptual import BLOCKS, FeatureDistance, distance_of, unit_length
from osediff_core.weights.lora_targets import vae_targets

from ...adapters import VAE_ADAPTER
from ...losses.balance import GradientBalance
from ...losses.projected import LITE, LITE_BLOCKS, discriminator_loss, generator_loss, projected_discriminator
from .autoencoder import decoded, posterior, scaling_factor
from .distil import HELD_OUT, Prompts, Restorer, Validation, enlarged, turned
from .loop import Stage, StageOptions
from .pairs import SCALE, Pairs
from .prior import RANK, scaled_start

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from ...losses.projected import ProjectedDiscriminator

Maps = dict[int, Tensor]  # block of Lite0 -> its map

WINDOW = 32  # px of the bad picture
BATCH = 6
ENCODER_RATE = 0.3  # of the learning rate of the UNet
CRITIC_RATE = 1.0  # of it, too
_ALL_BLOCKS = tuple(sorted({*BLOCKS, *LITE_BLOCKS}))


@dataclass(frozen=True)
class PixelShares:
    """Shares of the images' gradient, by the names of the losses; L1 to the teacher has what is left.

    With weights of 1 and 0.3, L1 had half a percent: the features' gradients are two hundred times as large, and blind
    to noise.
    """

    teacher_features: float = 0.25
    hq_features: float = 0.15
    adversarial: float = 0.0  # 0: no discriminator


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
        self, restorer: Restorer, vae: AutoencoderKL, prompts: Prompts, pairs: Pairs, shares: PixelShares
    ) -> None:
        self.restorer, self.vae, self.prompts = restorer, vae, prompts
        self.pairs, self.features = pairs, FeatureDistance(0, _ALL_BLOCKS)
        self.critic = projected_discriminator(LITE) if shares.adversarial else None
        self.balance = GradientBalance({name: share for name, share in asdict(shares).items() if share})

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
        ours = self._maps(image)
        with torch.no_grad():
            theirs, good = self._maps(teacher), self._maps(hq)
        features, *targets = (unit_length(maps[block] for block in BLOCKS) for maps in (ours, theirs, good))
        terms = {
            name: distance_of(features, target).mean()
            for name, target in zip(("teacher_features", "hq_features"), targets, strict=True)
        }
        if self.critic is not None:
            terms |= self._judged(self.critic, ours, theirs if rng.random() < 0.5 else good)
        l1 = (image - teacher).abs().mean()
        weights = self.balance.weights(terms, l1, image)
        loss = sum((weight * terms[name] for name, weight in weights.items()), l1) + terms.get("critic", 0.0)
        return {"loss": loss, "l1": l1, **terms}

    def _maps(self, image: Tensor) -> Maps:
        """Block of Lite0 -> its map, fp32."""
        with torch.autocast("cpu", torch.bfloat16):
            return {
                block: map_.float()
                for block, map_ in zip(_ALL_BLOCKS, self.features.maps(image), strict=True)
            }

    def _judged(self, critic: ProjectedDiscriminator, ours: Maps, real: Maps) -> dict[str, Tensor]:
        """What the restorer is told, without gradients to the critic's heads, and what these learn."""
        mine, right = ([maps[block] for block in LITE_BLOCKS] for maps in (ours, real))
        critic.heads.requires_grad_(False)
        told = critic.judge(mine)
        critic.heads.requires_grad_(True)
        learnt = discriminator_loss(
            critic.judge(right), critic.judge([map_.detach() for map_ in mine]), "hinge"
        )
        return {"adversarial": generator_loss(told, "hinge"), "critic": learnt}


def train_on_pixels(losses: PixelLoss, validation: Validation, folder: Path, options: StageOptions) -> None:
    """Train (or resume) UNet and encoder adapters, which are put on here; `validation` sees the same modules."""
    unet, vae, critic = losses.restorer.unet, losses.vae, losses.critic
    modules: dict[str, nn.Module] = {"unet": unet, "vae": vae}
    groups = [
        {"params": list(unet.parameters())},
        {"params": adapt_encoder(vae), "lr": options.learning_rate * ENCODER_RATE},
    ]
    if critic is not None:
        modules["critic"] = critic
        groups.append({"params": list(critic.heads.parameters()), "lr": options.learning_rate * CRITIC_RATE})
    stage = Stage("pixels", folder, modules, groups, options)
    stage.run(lambda _step, rng: losses.batch(rng), validation, validate_every=500)
