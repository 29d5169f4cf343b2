"""Train the embedded model from nothing: VAE, latent prior, one-step stage; resumable at any point.

    python -m training.recipes.tiny.train --photos DIR [DIR ...] [--kodak DIR] [--real-pairs DIR] --out runs/tiny

Run the same command again after an interruption: every stage goes on from its last saved state. Curves are
CSV files beside the states; the result is `OUT/export`, the folder that `--base` takes.
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
from transformers import CLIPTokenizer

from osediff_core.backends.load_base import load_base
from osediff_core.generator import OneStepGenerator
from osediff_core.weights.checkpoint import write_weights
from training.adapters import weights_from_peft

from ...data.appearance import APPEARANCE
from .export import export_base, round_to_half
from .loop import StageOptions
from .onestep import TIMESTEP, LossWeights, train_onestep
from .photos import PhotoPool
from .prior import train_prior
from .tags import imagenet_names, load_or_tag
from .tokenizer import train_tokenizer
from .vae import train_vae
from .validation import as_tensors, degraded_kodak, real_pairs

log = logging.getLogger(__name__)

TILES = 2400
WEIGHTS_FILE = "osediff.safetensors"


class Recipe(NamedTuple):
    """Settings of the three stages; `minutes` end a stage earlier on a slow machine."""

    vae: StageOptions
    prior: StageOptions
    onestep: StageOptions


# About 95 minutes in all on two CPU cores.
DEFAULT_RECIPE = Recipe(
    vae=StageOptions(steps=9000, learning_rate=1e-4, ema_decay=0.999, minutes=22),
    prior=StageOptions(steps=9000, learning_rate=5e-4, ema_decay=0.999, minutes=10, seed=1),
    onestep=StageOptions(steps=16000, learning_rate=1e-3, ema_decay=0.999, minutes=60, seed=2),
)


def _validation(kodak: Path | None, real: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    if kodak:
        found["kodak"] = as_tensors(degraded_kodak(kodak)[::2], 256)
    if real:
        found["real"] = as_tensors(real_pairs(real)[::2], 256)
    return found


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, pool: PhotoPool, count: int = 64) -> None:
    """Give `vae` the scaling factor that brings its latents to unit variance over `count` crops."""
    crops = pool.batch(count, 128, np.random.default_rng(0))
    vae.register_to_config(scaling_factor=round(1 / float(vae.encode(crops).latent_dist.mode().std()), 4))


def train(photos: list[Path], kodak: Path | None, real: Path | None, out: Path, recipe: Recipe) -> Path:
    """Run all stages and return the exported folder."""
    pool = PhotoPool(photos)
    vae = round_to_half(train_vae(pool, kodak, out, recipe.vae))
    set_scaling_factor(vae, pool)
    tokenizer_folder = out / "tokenizer"
    train_tokenizer([*imagenet_names(), *APPEARANCE], tokenizer_folder)
    tiles = load_or_tag(pool, TILES, out / "tiles.json")
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    unet, text_encoder = train_prior(vae, tokenizer, pool, tiles, out, recipe.prior)
    exported = out / "export"
    export_base(vae, unet, text_encoder, tokenizer_folder, exported)

    base = load_base(exported, dtype="fp32", device="cpu")
    generator = OneStepGenerator(base.vae, base.unet, base.text, base.schedule, TIMESTEP)
    train_onestep(generator, pool, _validation(kodak, real), out, recipe.onestep, LossWeights())
    metadata = {"timestep": str(TIMESTEP)}
    weights = weights_from_peft(generator.unet.module, generator.vae.module, metadata)
    write_weights(exported / WEIGHTS_FILE, weights, dtype=torch.float16)
    return exported


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="folders of training photographs"
    )
    parser.add_argument("--kodak", type=Path, help="folder of Kodak pictures, for validation")
    parser.add_argument("--real-pairs", type=Path, help="folder with LR/ and HR/, for validation")
    parser.add_argument("--out", type=Path, required=True, help="states, curves and the exported model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    log.info("exported to %s", train(args.photos, args.kodak, args.real_pairs, args.out, DEFAULT_RECIPE))


if __name__ == "__main__":
    main()
