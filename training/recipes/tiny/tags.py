"""Tags for training tiles: what an ImageNet classifier sees with confidence, and how the tile looks.

The classifier is EfficientNet-Lite0 from its PyPI package; category names are those of torchvision. Colour, brightness
and texture words are measured on the pixels. These are honest but coarse labels for a very small text prior.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from osediff_core.evaluate.perceptual import efficientnet_lite

from ...data.appearance import appearance_tags
from ...data.pictures import to_tensor
from .photos import PhotoPool

log = logging.getLogger(__name__)

TILE = 256  # px
CONFIDENT = 0.12  # class probability above which its name becomes a tag


@dataclass(frozen=True)
class Tile:
    """A TILE px square of photograph `photo` and its tags."""

    photo: int
    top: int
    left: int
    tags: list[str]


def imagenet_names() -> list[str]:
    """The 1000 category names in the classifier's order, lower case (torchvision's list)."""
    return (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()


def tag_tiles(pool: PhotoPool, count: int, seed: int = 0) -> list[Tile]:
    """Draw `count` tiles from `pool` and tag them."""
    classifier = efficientnet_lite(0)
    names, rng, tiles = imagenet_names(), np.random.default_rng(seed), []
    while len(tiles) < count:
        places = [pool.place(TILE, rng) for _ in range(16)]
        pictures = [pool.photos[photo][top : top + TILE, left : left + TILE] for photo, top, left in places]
        small = np.stack([np.asarray(Image.fromarray(picture).resize((224, 224))) for picture in pictures])
        with torch.inference_mode():
            likely = classifier(to_tensor(small)).softmax(dim=1).topk(3)
        for place, picture, values, indices in zip(
            places, pictures, *map(torch.Tensor.tolist, likely), strict=True
        ):
            seen = [names[index] for value, index in zip(values, indices, strict=True) if value > CONFIDENT]
            tiles.append(Tile(*place, seen + appearance_tags(picture)))
    return tiles[:count]


def load_or_tag(pool: PhotoPool, count: int, path: Path) -> list[Tile]:
    """Tiles from `path` if it was written before, else tagged now and written there."""
    if not path.exists():
        tiles = tag_tiles(pool, count)
        path.write_text(json.dumps([asdict(tile) for tile in tiles]))
        log.info("tagged %d tiles", len(tiles))
    return [Tile(**record) for record in json.loads(path.read_text())]
