"""Stage 2: a text-conditioned latent prior (noise prediction at all timesteps), on cached latents of tagged tiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from osediff_core.schedule import NoiseSchedule

from ...data.pictures import to_tensor
from .architecture import DOWNSCALE, SCHEDULER_CONFIG, build_text_encoder, build_unet
from .loop import Stage, StageOptions
from .photos import PhotoPool
from .tags import TILE, Tile

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

PROMPT_DROPOUT = 0.1
BATCH = 24
WINDOWS = (16, 16, 24, 32)  # latent sides, one drawn each step
VALIDATION_TILES = 48


def prompt_of(tags: list[str], rng: np.random.Generator, dropout: float) -> str:
    """Tags in random order joined as DAPE joins them; empty with probability `dropout`."""
    if rng.random() < dropout:
        return ""
    return ", ".join(rng.permutation(tags).tolist()) if tags else ""


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids (B, 77)."""
    return tokenizer(
        prompts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, pool: PhotoPool, tiles: list[Tile]) -> Tensor:
    """Scaled posterior modes (N, C, TILE / f, TILE / f) of all tiles, bf16."""
    found = []
    for start in range(0, len(tiles), 4):
        batch = tiles[start : start + 4]
        pictures = [pool.photos[t.photo][t.top : t.top + TILE, t.left : t.left + TILE] for t in batch]
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(to_tensor(np.stack(pictures))).latent_dist.mode()
        found.append((latents * vae.config.scaling_factor).bfloat16())
    return torch.cat(found)


class PriorLoss:
    """The noise prediction error on windows of the cached latents."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        tiles: list[Tile],
    ) -> None:
        self.unet, self.text_encoder, self.tokenizer, self.tiles = unet, text_encoder, tokenizer, tiles
        self.schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG)
        self.latents = torch.empty(0)

    def windows(self, indices: np.ndarray, size: int, rng: np.random.Generator) -> Tensor:
        """A random (C, size, size) window of each of the tiles `indices`, fp32 (B, C, size, size)."""
        corners = rng.integers(0, TILE // DOWNSCALE - size + 1, (len(indices), 2))
        cut = [
            self.latents[index, :, top : top + size, left : left + size]
            for index, (top, left) in zip(indices, corners, strict=True)
        ]
        return torch.stack(cut).float()

    def error(
        self, indices: np.ndarray, size: int, timesteps: Tensor, dropout: float, rng: np.random.Generator
    ) -> Tensor:
        """Mean squared error of the predicted noise, a scalar; timesteps (B,)."""
        x0 = self.windows(indices, size, rng)
        noise = torch.randn(x0.shape)
        prompts = [prompt_of(self.tiles[index].tags, rng, dropout) for index in indices]
        with torch.autocast("cpu", torch.bfloat16):
            embeds = self.text_encoder(tokenize(self.tokenizer, prompts)).last_hidden_state
            predicted = self.unet(self.schedule.add_noise(x0, noise, timesteps), timesteps, embeds).sample
        return (predicted.float() - noise).square().mean()

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """The loss of one random batch; the first VALIDATION_TILES tiles are held out."""
        size = int(rng.choice(WINDOWS))
        count = max(4, BATCH * 16**2 // size**2)
        timesteps = torch.from_numpy(rng.integers(0, 1000, count))
        indices = rng.integers(VALIDATION_TILES, len(self.tiles), count)
        return {"loss": self.error(indices, size, timesteps, PROMPT_DROPOUT, rng)}

    def validate(self) -> dict[str, float]:
        """The error on the held-out tiles with their tags and with empty prompts, on the same noise."""
        timesteps = torch.linspace(10, 990, VALIDATION_TILES).long()
        found = {}
        with torch.random.fork_rng(devices=[]):
            for name, dropout in (("val_tags", 0.0), ("val_empty", 1.0)):
                torch.manual_seed(1)
                rng = np.random.default_rng(1)
                found[name] = float(self.error(np.arange(VALIDATION_TILES), 24, timesteps, dropout, rng))
        return found


def train_prior(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    pool: PhotoPool,
    tiles: list[Tile],
    folder: Path,
    options: StageOptions,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train (or resume) UNet and text encoder together; returns both, frozen."""
    torch.manual_seed(options.seed)
    unet, text_encoder = build_unet(), build_text_encoder()
    modules: dict[str, nn.Module] = {"unet": unet, "text_encoder": text_encoder}
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    stage = Stage("prior", folder, modules, [{"params": parameters}], options)
    losses = PriorLoss(unet, text_encoder, tokenizer, tiles)
    if not stage.finished:
        losses.latents = cache_latents(vae, pool, tiles)
    stage.run(losses.batch, losses.validate, validate_every=500)
    return unet.eval().requires_grad_(False), text_encoder.eval().requires_grad_(False)
