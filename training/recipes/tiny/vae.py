"""Stage 1: the VAE. Linear start, then L1 + gradients + a little KL; features of Lite0 in the last third."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr

from ...data.pictures import to_tensor
from .architecture import build_vae
from .autoencoder import decoded, posterior
from .linear_start import linear_start
from .loop import Stage, StageOptions
from .photos import PhotoPool, load_photo

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

KL_WEIGHT = 1e-4  # per pixel
GRADIENT_WEIGHT = 0.5
OFFSET_WEIGHT = (
    0.2  # of a crop's mean error: at full weight its noise, from one step to the next, drowns the rest
)
FEATURE_WEIGHT = 0.1
START_CROPS = 48
LAST_LAYERS_RATE = 0.01  # of the learning rate


def gradient_difference(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical finite differences of two (B, 3, H, W)."""
    error = image - reference
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def validation_crops(kodak: Path, size: int = 256, count: int = 8) -> Tensor:
    """(count, 3, size, size) in [-1, 1]: centres of the first Kodak pictures."""
    crops = []
    for path in sorted(kodak.iterdir())[:count]:
        photo = load_photo(path)
        top, left = (photo.shape[0] - size) // 2, (photo.shape[1] - size) // 2
        crops.append(photo[top : top + size, left : left + size])
    return to_tensor(np.stack(crops))


def _groups(vae: AutoencoderKL, learning_rate: float) -> list[dict]:
    """Parameters as AdamW takes them: slower ones in the last layers of both halves, which see large constants."""
    slow, fast = [], []
    for name, parameter in vae.named_parameters():
        if parameter.requires_grad:
            (slow if "conv_norm_out" in name or "coder.conv_out" in name else fast).append(parameter)
    return [{"params": fast}, {"params": slow, "lr": learning_rate * LAST_LAYERS_RATE}]


def train_vae(pool: PhotoPool, kodak: Path | None, folder: Path, options: StageOptions) -> AutoencoderKL:
    """Train (or resume) the VAE and return it, frozen."""
    torch.manual_seed(options.seed)
    vae = build_vae()
    linear_start(vae, pool.batch(START_CROPS, 64, np.random.default_rng(options.seed)))
    for half in (vae.encoder, vae.decoder):
        half.mid_block.attentions.requires_grad_(
            False
        )  # its output stays zero, so that inference can leave it out
    features = FeatureDistance(0)
    stage = Stage("vae", folder, {"vae": vae}, _groups(vae, options.learning_rate), options)
    crops = validation_crops(kodak) if kodak else None

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        progress = stage.progress()
        image = pool.batch(8, 64, rng) if progress < 0.6 else pool.batch(3, 128, rng)
        with torch.autocast("cpu", torch.bfloat16):
            distribution = posterior(vae, image)
            made = decoded(vae, distribution.sample()).float()
        error = made - image
        offset = error.mean(dim=(2, 3), keepdim=True)
        terms = {
            "l1": (error - offset).abs().mean(),
            "offset": offset.abs().mean(),
            "gradient": gradient_difference(made, image),
            "kl": distribution.kl().float().sum() / image[:, 0].numel(),
        }
        total = (
            terms["l1"]
            + OFFSET_WEIGHT * terms["offset"]
            + GRADIENT_WEIGHT * terms["gradient"]
            + KL_WEIGHT * terms["kl"]
        )
        if progress > 0.67:
            with torch.autocast("cpu", torch.bfloat16):
                terms["features"] = features(made.clamp(-1, 1), image).mean()
            total = total + FEATURE_WEIGHT * terms["features"]
        return {"loss": total, **terms}

    def validate() -> dict[str, float]:
        if crops is None:
            return {}
        latents = posterior(vae, crops).mode()
        return {
            "val_psnr": float(psnr(decoded(vae, latents).clamp(-1, 1), crops).mean()),
            "latent_std": float(latents.std()),
        }

    if stage.step == 0:
        with torch.no_grad():
            stage.record(validate())
    stage.run(loss, validate)
    return vae.eval().requires_grad_(False)
