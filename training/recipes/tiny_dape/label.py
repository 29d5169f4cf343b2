"""Draw crops and let the teacher say what it sees: what the student learns from, in chunks on disk.

    python -m training.recipes.tiny_dape.label --photos photos --out runs/tiny_dape/labels

Crop n follows from the seed and n alone. Chunks that are there already are kept, so the command can be run again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .crops import Crop, as_student_sees, draw_crop
from .model import CONFIG, GRID
from .photographs import CALIBRATION, TRAIN, find_photographs
from .teacher import Teacher

log = logging.getLogger(__name__)

CHUNK = 400
CROPS = {TRAIN: 6_400, CALIBRATION: 1_600}
_BATCH = 20


@dataclass(frozen=True)
class Labels:
    """Of N crops. images: uint8 (N, size, size, 3). photos: their numbers in `find_photographs`. wide, mixed: bool.

    classes: fp16 (N, 1000) probabilities. features: fp16 (N, grid * grid, C) of the teacher.
    """

    images: np.ndarray
    photos: np.ndarray
    wide: np.ndarray
    mixed: np.ndarray
    classes: np.ndarray
    features: np.ndarray

    @classmethod
    def read(cls, folder: Path, split: str) -> Labels:
        """All chunks of a split. Raises FileNotFoundError where there is none."""
        paths = sorted(folder.glob(f"{split}_*.npz"))
        if not paths:
            raise FileNotFoundError(
                f"there are no labels of {split} in {folder}: run training.recipes.tiny_dape.label"
            )
        chunks = [dict(np.load(path)) for path in paths]
        return cls(
            **{name: np.concatenate([chunk.pop(name) for chunk in chunks]) for name in sorted(chunks[0])}
        )


def label_crops(teacher: Teacher, crops: list[Crop], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of a `Labels` for these crops."""
    found = []
    for start in range(0, len(crops), _BATCH):
        part = crops[start : start + _BATCH]
        probabilities, features = teacher([crop.image for crop in part])
        found.append((probabilities.half().numpy(), features.half().numpy()))
    return {
        "images": np.stack([as_student_sees(crop.image, CONFIG.image_size, rng) for crop in crops]),
        "photos": np.array([crop.photo for crop in crops]),
        "wide": np.array([crop.wide for crop in crops]),
        "mixed": np.array([crop.mixed for crop in crops]),
        "classes": np.concatenate([classes for classes, _ in found]),
        "features": np.concatenate([features for _, features in found]),
    }


def _write_chunks(chunks: list[int], photos: Path, out: Path, split: str, count: int) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    listed = find_photographs(photos)
    numbers = [number for number, photo in enumerate(listed) if photo.split == split]
    images = [listed[number].load() for number in numbers]
    teacher = Teacher(GRID)
    for chunk in chunks:
        path = out / f"{split}_{chunk:04d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([chunk, split == TRAIN])
        crops = []
        for n in range(chunk * CHUNK, min((chunk + 1) * CHUNK, count)):
            crop = draw_crop(images, n % len(images), rng, varied=split == TRAIN)
            crops.append(replace(crop, photo=numbers[crop.photo]))
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            arrays: dict[str, Any] = label_crops(teacher, crops, rng)
            np.savez(file, **arrays)
        temporary.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=int, default=CROPS[TRAIN], help="of the training photographs")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    for split, count in {CALIBRATION: CROPS[CALIBRATION], TRAIN: args.crops}.items():
        chunks = range(-(-count // CHUNK))
        shares = [list(chunks[start :: args.processes]) for start in range(args.processes)]
        write = partial(_write_chunks, photos=args.photos, out=args.out, split=split, count=count)
        with context.Pool(args.processes) as pool:
            pool.map(write, shares)
        log.info("%d crops of the %s photographs are labelled", count, split)


if __name__ == "__main__":
    main()
