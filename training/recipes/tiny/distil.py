"""Stage 2: the restorer, a UNet with all its weights trained to give the teacher's latents in one step.

First on cached latents, the UNet alone; then through the frozen decoder, where features of EfficientNet-Lite0 and, at
a measured share of the gradient, a discriminator on them can say what matters to the eye.

The step is taken at TIMESTEP, not at the last one: x0 = (z - sigma eps) / alpha multiplies the UNet's error by
sigma / alpha, which is 14.6 at t = 999 and 0.35 at t = 99, and there what is added to the input's latents has about
unit variance. The timestep is part of the weights file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osediff_core.atomic import write_bytes_atomically
from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr_y
from osediff_core.schedule import NoiseSchedule

from .architecture import SCHEDULER_CONFIG
from .autoencoder import decoded, posterior, scaling_factor
from .loop import Stage, StageOptions, processes, wait_for_all
from .pairs import SCALE

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from osediff_core.ports import PromptEncoder

    from ...data.captions import Tagger

log = logging.getLogger(__name__)

TIMESTEP = 99
PROMPT_DROPOUT = 0.5
VARIANTS = 2  # of the eight mirrored and turned ones, of each pair
HELD_OUT = 32  # pairs
BATCHES = ((8, 32), (4, 48))  # (windows, their side in latents), whose activations a core's cache about holds
LARGER = 0.3  # share of steps with the second


def turned(images: Tensor, variant: int) -> Tensor:
    """One of the eight mirrored and turned pictures: (..., H, W), variant 0 to 7."""
    images = images.flip(-1) if variant >= 4 else images
    return torch.rot90(images, variant % 4, (-2, -1))


def enlarged(lq: Tensor) -> Tensor:
    """uint8 (B, 3, h, w) -> (B, 3, SCALE h, SCALE w) in [-1, 1], as the generator receives it (Pillow's bicubic)."""
    big = F.interpolate(lq.float(), scale_factor=SCALE, mode="bicubic", antialias=True)
    return big.round().clamp(0, 255) / 127.5 - 1


@dataclass
class Latents:
    """Scaled latents, fp16 (..., C, h, w): lq and teacher of VARIANTS turned copies of each of N pairs, one after
    the other, and hq (N). Which copies: variants (N VARIANTS,). prompts: N."""

    lq: Tensor
    teacher: Tensor
    hq: Tensor
    variants: Tensor
    prompts: list[str]


@torch.no_grad()
def encoded(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled posterior modes of (B, 3, H, W) in [-1, 1], fp16."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = posterior(vae, images).mode()
    return (latents.float() * scaling_factor(vae)).half()


def cache(vae: AutoencoderKL, tagger: Tagger, pairs: Path, out: Path) -> None:
    """Encode each shard in `pairs` that has no latents in `out` yet. Prompts are the tagger's, of the good picture."""
    from safetensors.torch import load_file, save

    out.mkdir(parents=True, exist_ok=True)
    rank, world = processes()
    for path in sorted(pairs.glob("*.safetensors"))[rank::world]:
        target = out / path.name
        if target.exists():
            continue
        shard, rng = load_file(path), np.random.default_rng([11, int(path.stem)])
        found: dict[str, list[Tensor]] = {"lq": [], "teacher": [], "hq": [], "variants": []}
        prompts = []
        for index in range(len(shard["lq"])):
            lq, teacher, hq = (shard[name][index : index + 1] for name in ("lq", "teacher", "hq"))
            chosen = rng.choice(8, VARIANTS, replace=False)
            found["variants"].append(torch.from_numpy(chosen))
            for name, image in (("lq", enlarged(lq)), ("teacher", teacher / 127.5 - 1)):
                found[name].append(encoded(vae, torch.cat([turned(image, int(v)) for v in chosen])))
            found["hq"].append(encoded(vae, hq / 127.5 - 1))
            prompts += tagger(hq / 127.5 - 1)
        tensors = {name: torch.cat(values).contiguous() for name, values in found.items()}
        write_bytes_atomically(target, save(tensors, {str(i): prompt for i, prompt in enumerate(prompts)}))
        log.info("latents of %s", path.name)
    wait_for_all()


def read_latents(folder: Path) -> Latents:
    """All that `cache` wrote to `folder`."""
    from safetensors import safe_open

    parts: dict[str, list[Tensor]] = {"lq": [], "teacher": [], "hq": [], "variants": []}
    prompts: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name, values in parts.items():
                values.append(file.get_tensor(name))
            metadata = file.metadata()
        prompts += [metadata[str(index)] for index in range(len(metadata))]
    return Latents(**{name: torch.cat(values) for name, values in parts.items()}, prompts=prompts)


class Prompts:
    """Embeddings of each pair's prompt, (N, L, D) fp16, and of the empty one."""

    def __init__(self, text: PromptEncoder, prompts: list[str]) -> None:
        with torch.no_grad():
            self.embeds = torch.cat([text([prompt]).half() for prompt in prompts])
            self.empty = text([""]).float()

    def draw(self, chosen: np.ndarray, rng: np.random.Generator, dropout: float = PROMPT_DROPOUT) -> Tensor:
        """fp32 (B, L, D) of the pairs `chosen`; empty with probability `dropout`."""
        empty = torch.from_numpy(rng.random(len(chosen)) < dropout)
        return torch.where(empty[:, None, None], self.empty, self.embeds[chosen].float())

    def none(self, count: int) -> Tensor:
        """fp32 (count, L, D) of empty prompts."""
        return self.empty.expand(count, -1, -1)


def windows(images: Tensor, chosen: np.ndarray, corners: np.ndarray, size: int) -> Tensor:
    """Of images (N, C, h, w), the (B, C, size, size) at corners (B, 2) of those that are chosen (B,)."""
    return torch.stack(
        [images[n, :, y : y + size, x : x + size] for n, (y, x) in zip(chosen, corners, strict=True)]
    )


class Restorer:
    """One step of `unet` at TIMESTEP."""

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG)

    def __call__(self, z: Tensor, embeds: Tensor) -> Tensor:
        """Latents (B, C, h, w) of the input -> of the restored picture, fp32."""
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.unet(z, torch.full((len(z),), TIMESTEP), embeds).sample
        return self.schedule.predict_x0(z, predicted, TIMESTEP)


class LatentLoss:
    """L1 between the restorer's latents and the teacher's, on windows of what was cached."""

    def __init__(self, restorer: Restorer, prompts: Prompts, latents: Latents) -> None:
        self.restorer, self.prompts, self.latents = restorer, prompts, latents

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """The loss of one random batch of pairs that are not held out."""
        count, size = BATCHES[int(rng.random() < LARGER)]
        chosen = rng.integers(HELD_OUT * VARIANTS, len(self.latents.lq), count)
        corners = rng.integers(0, self.latents.lq.shape[-1] - size + 1, (count, 2))
        lq, teacher = (
            windows(side, chosen, corners, size).float() for side in (self.latents.lq, self.latents.teacher)
        )
        restored = self.restorer(lq, self.prompts.draw(chosen // VARIANTS, rng))
        return {"loss": (restored - teacher).abs().mean()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss on whole held-out crops, and what the input's own latents have."""
        first = slice(0, HELD_OUT * VARIANTS, VARIANTS)
        lq, teacher = self.latents.lq[first].float(), self.latents.teacher[first].float()
        ours = torch.cat([self.restorer(z, self.prompts.none(len(z))) for z in lq.split(8)])
        return {
            "val_l1": float((ours - teacher).abs().mean()),
            "input_l1": float((lq - teacher).abs().mean()),
        }


class Validation:
    """PSNR-Y and D2 on given pairs, (enlarged LQ, HQ) each (B, 3, H, W) in [-1, 1]; no prompt, no colour fix."""

    def __init__(
        self, vae: AutoencoderKL, restorer: Restorer, prompts: Prompts, sets: dict[str, tuple[Tensor, Tensor]]
    ) -> None:
        self.vae, self.restorer, self.prompts, self.sets = vae, restorer, prompts, sets
        self.distance = FeatureDistance(2)
        with torch.no_grad():
            self.bicubic = {name: float(self.distance(*pair).mean()) for name, pair in sets.items()}

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        found = {}
        for name, (lq, hq) in self.sets.items():
            image = torch.cat([self._restored(one) for one in lq.split(1)])
            found[f"{name}_psnr_gain"] = float((psnr_y(image, hq) - psnr_y(lq, hq)).mean())
            found[f"{name}_d2_percent"] = 100 * (
                float(self.distance(image, hq).mean()) / self.bicubic[name] - 1
            )
        return found

    def _restored(self, lq: Tensor) -> Tensor:
        z = self.restorer(encoded(self.vae, lq).float(), self.prompts.none(1))
        with torch.autocast("cpu", torch.bfloat16):
            return decoded(self.vae, z / scaling_factor(self.vae)).float().clamp(-1, 1)


def train_on_latents(
    restorer: Restorer,
    prompts: Prompts,
    latents: Latents,
    validation: Validation,
    folder: Path,
    options: StageOptions,
) -> None:
    """Train (or resume) the UNet alone."""
    losses = LatentLoss(restorer, prompts, latents)
    stage = Stage(
        "latents", folder, {"unet": restorer.unet}, [{"params": list(restorer.unet.parameters())}], options
    )
    stage.run(
        lambda _step, rng: losses.batch(rng), lambda: losses.validate() | validation(), validate_every=500
    )
