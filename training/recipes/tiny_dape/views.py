"""What the tagger is judged on: views of the held-out photographs, good and degraded, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from osediff_core.degrade import degrade

from ...data.pictures import to_tensor
from .crops import as_student_sees, draw_crop
from .model import GRID
from .photographs import HELD_OUT, find_photographs
from .split import shrunk
from .targets import Vocabulary, targets
from .teacher import Teacher

CROPS = 6  # of each photograph, beside the whole of it
_SIDE = 192  # px: of the copies on which colours are measured


@dataclass(frozen=True)
class Views:
    """clean, degraded: N images (3, H, W) in [-1, 1]. photos: (N,) numbers of the photographs.

    wanted (N, tags) probabilities, known (N, tags) bool, classes (N, 1000) of the teacher.
    """

    clean: list[Tensor]
    degraded: list[Tensor]
    photos: np.ndarray
    wanted: np.ndarray
    known: np.ndarray
    classes: np.ndarray


def held_out_views(
    folder: Path, vocabulary: Vocabulary, preset: str, crops: int = CROPS, seed: int = 7
) -> Views:
    """Of all held-out photographs below `folder`; preset: of osediff_core.degrade, x4, view i degraded by (seed, i)."""
    photographs = find_photographs(folder)
    teacher, rng = Teacher(GRID), np.random.default_rng(seed)
    clean, degraded, numbers, wide, small, classes = [], [], [], [], [], []
    for number, photo in enumerate(photographs):
        if photo.split != HELD_OUT:
            continue
        image = photo.load()
        drawn = [draw_crop([image], 0, rng, varied=False) for _ in range(crops)]
        views = [shrunk(image), *(crop.image for crop in drawn)]
        classes.append(teacher(views)[0].numpy())
        wide += [True, *(crop.wide for crop in drawn)]
        numbers += [number] * len(views)
        for view in views:
            small.append(as_student_sees(view, _SIDE, rng))
            clean.append(to_tensor(np.array(view)[None])[0])
            lq, _ = degrade(
                (clean[-1][None] + 1) / 2, preset, 4.0, seed, resize_back=True, first=len(degraded)
            )
            degraded.append(lq[0] * 2 - 1)
    photos, seen = np.array(numbers), np.concatenate(classes)
    wanted, weights = targets(
        vocabulary, photographs, np.stack(small), photos, np.array(wide), np.zeros(len(wide), bool), seen
    )
    return Views(clean, degraded, photos, wanted, weights > 0, seen)
