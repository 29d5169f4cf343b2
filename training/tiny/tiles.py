"""Cut the photographs into sharp tiles, which a training run reads fifty times as fast as whole 4K pictures.

    python -m training.tiny.tiles --photos photos --out runs/tiles

Tiles are drawn as the first training drew its crops: sharp places more often, one in four of a field twice as large.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from .photos import PhotoPool

SIZE = 256  # px
COUNT = 2400
SHRUNK = 0.25  # share of tiles that show a field twice as large
SEED = 0


def cut(photos: Path, out: Path, count: int = COUNT, size: int = SIZE, seed: int = SEED) -> None:
    """Write `count` tiles as out/NNNN.png; the same for the same seed. Raises FileNotFoundError without photographs."""
    pool, rng = PhotoPool([photos]), np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        tile = pool.crop(size, rng, shrink=2 if rng.random() < SHRUNK else 1)
        Image.fromarray(tile).save(out / f"{number:04}.png", compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--size", type=int, default=SIZE, help="px")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cut(args.photos, args.out, args.count, args.size)


if __name__ == "__main__":
    main()
