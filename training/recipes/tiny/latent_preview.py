"""How the embedded VAE's latents look as colours: the linear map that ComfyUI draws its previews with.

    python -m training.recipes.tiny.latent_preview --photos DIR

Least squares from scaled latents to the picture shrunk to their size, in [-1, 1]; the result is written beside the
VAE, as `latent_rgb.json`: {"factors": one row of red, green, blue for each latent channel, "bias": of each colour}.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from torch.nn import functional as F

from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.load_base import load_base
from osediff_core.ports import LatentCodec

from .photos import PhotoPool

CROP = 256
PICTURES = 64

log = logging.getLogger(__name__)


@torch.inference_mode()
def fit(vae: LatentCodec, pool: PhotoPool) -> tuple[dict[str, list], float]:
    """The map, and the share of the colours' variance that it explains."""
    generator = torch.Generator().manual_seed(0)
    latents, colours = [], []
    for index in torch.randint(len(pool.photos), (PICTURES,), generator=generator).tolist():
        photo = pool.photos[index]
        top, left = (max(0, (side - CROP) // 2) for side in photo.shape[:2])
        crop = torch.from_numpy(photo[top : top + CROP, left : left + CROP].copy())
        image = crop.permute(2, 0, 1)[None] / 127.5 - 1
        if image.shape[-2:] != (CROP, CROP):
            continue
        latents.append(vae.encode(image)[:, : vae.latent_channels].flatten(2)[0].T)
        colours.append(F.avg_pool2d(image, vae.downscale).flatten(2)[0].T)
    known, wanted = torch.cat(latents), torch.cat(colours)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    solution = torch.linalg.lstsq(known, wanted).solution
    explained = 1 - (known @ solution - wanted).var() / wanted.var()
    factors, bias = solution[:-1], solution[-1]
    return {"factors": _rounded(factors), "bias": _rounded(bias)}, float(explained)


def write_preview(base: Path, pool: PhotoPool) -> None:
    """Fit the map for the VAE in the folder `base`, and write it there."""
    preview, explained = fit(load_base(base, "fp32", "cpu").vae, pool)
    path = base / "vae" / "latent_rgb.json"
    path.write_text(json.dumps(preview, indent=2) + "\n", encoding="utf-8")
    log.info("%s explains %.1f %% of the colours' variance", path, 100 * explained)


def _rounded(values: torch.Tensor) -> list:
    return [_rounded(value) if value.ndim else round(float(value), 4) for value in values]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--base", type=Path, default=PACKAGED["tiny"], help="the folder")
    args = parser.parse_args()
    write_preview(args.base, PhotoPool(args.photos))


if __name__ == "__main__":
    main()
