"""Train the embedded model: VAE, restorer, the base made of it; resumable at any point.

    python -m training.recipes.tiny.train --photos photos --pairs runs/pairs --out runs/tiny [--kodak DIR]

Before it, `training.recipes.tiny.pairs` makes what is distilled from. Run the same command again after an
interruption: every stage goes on from its last saved state. Curves are CSV files beside the states; the result is
`OUT/export`, the folder that `--base` takes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.load_base import load_base
from osediff_core.generator import OneStepGenerator
from osediff_core.weights.checkpoint import write_weights

from ...data.captions import find_tagger
from .architecture import build_unet
from .autoencoder import posterior
from .distil import Prompts, Restorer, Validation, cache, read_latents, train_on_latents
from .export import export_base, round_to_half
from .grow import grow
from .latent_preview import write_preview
from .loop import StageOptions, processes
from .pairs import read
from .photos import PhotoPool
from .pixels import PixelLoss, PixelShares, train_on_pixels
from .prior import train_prior
from .vae import train_vae
from .validation import as_tensors, degraded_kodak, real_pairs

log = logging.getLogger(__name__)

WEIGHTS_FILE = "osediff.safetensors"


class Recipe(NamedTuple):
    """Settings of the stages; `minutes` end a stage earlier on a slow machine."""

    vae: StageOptions
    latents: StageOptions
    pixels: StageOptions
    prior: StageOptions
    shares: PixelShares = PixelShares(adversarial=0.15)


DEFAULT_RECIPE = Recipe(
    vae=StageOptions(steps=6000, learning_rate=2e-4, ema_decay=0.998),
    latents=StageOptions(steps=40000, learning_rate=8e-4, ema_decay=0.999, seed=1, muon=True),
    pixels=StageOptions(steps=10000, learning_rate=3e-4, ema_decay=0.999, seed=2, muon=True),
    prior=StageOptions(steps=2000, learning_rate=5e-4, ema_decay=0.999, seed=3),
)


def _validation(kodak: Path | None, real: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    if kodak:
        found["kodak"] = as_tensors(degraded_kodak(kodak)[::3], 256)
    if real:
        found["real"] = as_tensors(real_pairs(real)[::2], 256)
    return found


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, pool: PhotoPool, count: int = 64) -> None:
    """Give `vae` the scaling factor that brings its latents to unit variance over `count` crops."""
    crops = pool.batch(count, 128, np.random.default_rng(0))
    vae.register_to_config(scaling_factor=round(1 / float(posterior(vae, crops).mode().std()), 4))


def train(
    photos: list[Path],
    pairs: Path,
    kodak: Path | None,
    real: Path | None,
    out: Path,
    recipe: Recipe,
    old: Path | None = None,
) -> Path:
    """Run all stages, return the exported folder; kodak, real: pictures to validate on; old: a folder to `grow` from.

    Text encoder and tokenizer are those of the embedded model.
    """
    pool = PhotoPool(photos)
    vae = round_to_half(train_vae(pool, kodak, out, recipe.vae))
    set_scaling_factor(vae, pool)
    cache(vae, find_tagger("tiny"), pairs, out / "latents")
    latents = read_latents(out / "latents")
    text = load_base("tiny", "fp32", "cpu").text
    prompts = Prompts(text, latents.prompts)

    torch.manual_seed(recipe.latents.seed)
    unet = build_unet()
    restorer = Restorer(unet)
    validation = Validation(vae, restorer, prompts, _validation(kodak, real))
    found = read(pairs)
    if old:
        grow(restorer, prompts, latents, found, OneStepGenerator.load(old, dtype="fp32", device="cpu"))
    train_on_latents(restorer, prompts, latents, validation, out, recipe.latents)
    losses = PixelLoss(restorer, vae, prompts, found, recipe.shares)
    train_on_pixels(losses, validation, out, recipe.pixels)
    weights = train_prior(unet, vae, prompts, latents, out, recipe.prior)
    vae.unload_lora()

    exported = out / "export"
    if processes()[0]:
        return exported
    export_base(vae, unet, text.module, PACKAGED["tiny"] / "tokenizer", exported)
    write_weights(exported / WEIGHTS_FILE, weights, dtype=torch.float16)
    write_preview(exported, pool)
    return exported


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="folders of training photographs"
    )
    parser.add_argument("--pairs", type=Path, required=True, help="folder of training.recipes.tiny.pairs")
    parser.add_argument("--kodak", type=Path, help="folder of Kodak pictures, for validation")
    parser.add_argument("--real-pairs", type=Path, help="folder with LR/ and HR/, for validation")
    parser.add_argument("--out", type=Path, required=True, help="states, curves and the exported model")
    parser.add_argument("--grow", type=Path, help="start from this folder of the first embedded model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    exported = train(
        args.photos, args.pairs, args.kodak, args.real_pairs, args.out, DEFAULT_RECIPE, args.grow
    )
    log.info("exported to %s", exported)


if __name__ == "__main__":
    main()
