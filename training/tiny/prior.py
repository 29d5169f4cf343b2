"""Stage 2: a text-conditioned latent prior (noise prediction at all timesteps), on cached latents of tagged tiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from osediff_core.schedule import NoiseSchedule

from .architecture import DOWNSCALE, SCHEDULER_CONFIG, build_text_encoder, build_unet
from .loop import Stage, StageOptions
from .photos import PhotoPool, to_tensor
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
    schedule = NoiseSchedule.from_config(SCHEDULER_CONFIG)
    modules: dict[str, nn.Module] = {"unet": unet, "text_encoder": text_encoder}
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    stage = Stage("prior", folder, modules, [{"params": parameters}], options)
    latents = torch.empty(0) if stage.finished else cache_latents(vae, pool, tiles)

    def noise_loss(
        indices: np.ndarray, window: int, rng: np.random.Generator, timesteps: Tensor, dropout: float
    ) -> Tensor:
        side = TILE // DOWNSCALE - window
        x0 = torch.stack(
            [
                latents[index, :, top : top + window, left : left + window]
                for index, (top, left) in zip(
                    indices, rng.integers(0, side + 1, (len(indices), 2)), strict=True
                )
            ]
        ).float()
        noise = torch.randn(x0.shape)
        prompts = [prompt_of(tiles[index].tags, rng, dropout) for index in indices]
        with torch.autocast("cpu", torch.bfloat16):
            embeds = text_encoder(tokenize(tokenizer, prompts)).last_hidden_state
            predicted = unet(schedule.add_noise(x0, noise, timesteps), timesteps, embeds).sample
        return (predicted.float() - noise).square().mean()

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        window = int(rng.choice(WINDOWS))
        count = max(4, BATCH * 16**2 // window**2)
        timesteps = torch.from_numpy(rng.integers(0, 1000, count))
        return {
            "loss": noise_loss(
                rng.integers(VALIDATION_TILES, len(tiles), count), window, rng, timesteps, PROMPT_DROPOUT
            )
        }

    def validate() -> dict[str, float]:
        state = torch.get_rng_state()
        torch.manual_seed(1)
        timesteps = torch.linspace(10, 990, VALIDATION_TILES).long()
        found = {}
        for name, dropout in (("val_tags", 0.0), ("val_empty", 1.0)):
            rng = np.random.default_rng(1)
            torch.manual_seed(1)
            found[name] = float(noise_loss(np.arange(VALIDATION_TILES), 24, rng, timesteps, dropout))
        torch.set_rng_state(state)
        return found

    stage.run(loss, validate, validate_every=500)
    return unet.eval().requires_grad_(False), text_encoder.eval().requires_grad_(False)
