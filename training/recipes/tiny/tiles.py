"""Cut the photographs into sharp tiles, which a training run reads fifty times as fast as whole 4K pictures.

    python -m training.recipes.tiny.tiles --photos photos --out runs/tiles [--soft runs/soft]

Tiles are drawn as `onestep.pair` draws its crops: sharp places more often, one in four of a field twice as large.
Soft ones are centres of them, enlarged. A camera's picture is that soft at the pixel: the mean |Laplacian| of the luma
is 3 to 12 of 255 in the good pictures of RealSR and DRealSR, and 11 in the median tile.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as F

from .photos import CELL, PhotoPool

SIZE = 256  # px
COUNT = 2400
SHRUNK = 0.25  # share of tiles that show a field twice as large
SEED = 0
SOFT_COUNT = 1600
SOFT_FIELDS = (0.59375, 0.6875, 0.8125)  # of the tile's side, in turn


def cut(photos: Path, out: Path, count: int = COUNT, size: int = SIZE, seed: int = SEED) -> None:
    """Write `count` tiles as out/NNNN.png; the same for the same seed. Raises FileNotFoundError without photographs."""
    pool, rng = PhotoPool([photos], max(size, 4 * CELL)), np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        tile = pool.crop(size, rng, shrink=2 if rng.random() < SHRUNK else 1)
        Image.fromarray(tile).save(out / f"{number:04}.png", compress_level=1)


def soften(tiles: Path, out: Path, count: int = SOFT_COUNT) -> None:
    """Write the centres of the first `count` pictures in `tiles` to `out` under their names, enlarged to their size."""
    out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(tiles.glob("*.png"))[:count]):
        with Image.open(path) as tile:
            field = round(SOFT_FIELDS[number % len(SOFT_FIELDS)] * tile.width)
            soft = F.center_crop(tile, field).resize(tile.size, Image.Resampling.BICUBIC)
        soft.save(out / path.name, compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--size", type=int, default=SIZE, help="px")
    parser.add_argument("--soft", type=Path, help="also write soft ones here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cut(args.photos, args.out, args.count, args.size)
    if args.soft:
        soften(args.out, args.soft)


if __name__ == "__main__":
    main()
