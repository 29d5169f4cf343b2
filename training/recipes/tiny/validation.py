"""Validation pairs: real photographs (LR, HR folders) and Kodak degraded with fixed seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ...data.pictures import to_tensor
from .degrade import SCALE, VALIDATION, degrade, enlarge

SEED = 2024


@dataclass(frozen=True)
class Pair:
    """One low-quality picture and what it should become; uint8 (h, w, 3) and (SCALE h, SCALE w, 3)."""

    name: str
    lq: np.ndarray
    hq: np.ndarray


def read_rgb(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def real_pairs(folder: Path, every: int = 1) -> list[Pair]:
    """Pairs of `folder`/LR/NAME.png and `folder`/HR/NAME.png; `every`: only each so many-th."""
    return [
        Pair(path.stem, read_rgb(path), read_rgb(folder / "HR" / path.name))
        for path in sorted((folder / "LR").iterdir())[::every]
    ]


def degraded_kodak(folder: Path, every: int = 1) -> list[Pair]:
    """Each `every`-th picture in `folder`, degraded with a generator seeded by its position."""
    pairs = []
    for index, path in enumerate(sorted(folder.iterdir())):
        if path.suffix.lower() not in {".png", ".jpg", ".jpeg"} or index % every:
            continue
        hq = read_rgb(path)
        hq = hq[: hq.shape[0] // SCALE * SCALE, : hq.shape[1] // SCALE * SCALE]
        pairs.append(Pair(path.stem, degrade(hq, VALIDATION, np.random.default_rng([SEED, index])), hq))
    return pairs


def as_tensors(pairs: list[Pair], size: int) -> tuple[Tensor, Tensor]:
    """(enlarged LQ, HQ): the `size` px centres of all pairs, each (B, 3, size, size) in [-1, 1]."""
    lqs, hqs = [], []
    for pair in pairs:
        height, width = pair.hq.shape[:2]
        top, left = (height - size) // 2, (width - size) // 2
        lqs.append(enlarge(pair.lq)[top : top + size, left : left + size])
        hqs.append(pair.hq[top : top + size, left : left + size])
    return to_tensor(np.stack(lqs)), to_tensor(np.stack(hqs))
