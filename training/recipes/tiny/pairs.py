"""Pairs to distil from: degraded crops, what the teacher makes of exactly those, and the photograph itself.

    python -m training.recipes.tiny.pairs --photos photos --teacher runs/teacher --out runs/pairs [--part 1/2]

Written in shards, each the same for the same number and seed; those that are there are kept, so the command can be
interrupted, repeated with a larger count, and run twice side by side with `--part`. 0.9 CPU-seconds a pair.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from osediff_core.atomic import write_bytes_atomically
from osediff_core.degrade import degrade

from ...data.pictures import to_tensor
from .photos import PhotoPool
from .teacher import FILE, fetch, load

log = logging.getLogger(__name__)

SIDE = 320  # px of the good picture
SCALE = 4
SHARD = 25  # pairs
COUNT = 2000
SHRUNK = 0.25  # share of crops that show a field twice as large
SOFT = 0.3  # share that is enlarged first: a camera's picture is softer at the pixel than a chosen photograph
SOFT_FIELDS = (0.55, 0.85)  # of SIDE
_CONFIGS = Path(__file__).parents[2] / "configs" / "degradations"
CLEAN = "clean"  # an enlarging that must undo nothing else
DEGRADATIONS = {str(_CONFIGS / "tiny.yaml"): 0.45, str(_CONFIGS / "camera.yaml"): 0.4, CLEAN: 0.15}


@dataclass(frozen=True)
class Pairs:
    """uint8: lq (N, 3, h, w); teacher and hq (N, 3, SCALE h, SCALE w)."""

    lq: Tensor
    teacher: Tensor
    hq: Tensor

    def __len__(self) -> int:
        return len(self.lq)


def good_crop(pool: PhotoPool, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """uint8 (SIDE, SIDE, 3), and whether it was softened."""
    if rng.random() >= SOFT:
        return pool.crop(SIDE, rng, shrink=2 if rng.random() < SHRUNK else 1), False
    field = pool.crop(round(SIDE * rng.uniform(*SOFT_FIELDS)), rng)
    return np.asarray(Image.fromarray(field).resize((SIDE, SIDE), Image.Resampling.BICUBIC)), True


def _bad(hq: Tensor, soft: bool, rng: np.random.Generator, seed: int) -> Tensor:
    """hq (1, 3, H, W) in [0, 1] -> (1, 3, H / SCALE, W / SCALE) in 8-bit steps."""
    kind = str(rng.choice(list(DEGRADATIONS), p=list(DEGRADATIONS.values())))
    if kind == CLEAN:
        mode = "area" if rng.random() < 0.5 else "bicubic"
        options = {} if mode == "area" else {"antialias": True}
        small = F.interpolate(hq, scale_factor=1 / SCALE, mode=mode, **options)
        return (small.clamp(0, 1) * 255).round() / 255
    return degrade(hq, str(_CONFIGS / "camera.yaml") if soft else kind, SCALE, seed)[0]


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().byte()


def make_shard(
    number: int, pool: PhotoPool, teacher: torch.nn.Module, count: int = SHARD
) -> dict[str, Tensor]:
    """Tensors of one shard, by the names of `Pairs`; all that is random follows from `number`."""
    rng = np.random.default_rng([7, number])
    found: dict[str, list[Tensor]] = {"lq": [], "teacher": [], "hq": []}
    for index in range(count):
        crop, soft = good_crop(pool, rng)
        hq = (to_tensor(crop[None]) + 1) / 2
        lq = _bad(hq, soft, rng, number * SHARD + index)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            restored = teacher(lq).float()
        for name, image in (("lq", lq), ("teacher", restored), ("hq", hq)):
            found[name].append(_bytes(image))
    return {name: torch.cat(images) for name, images in found.items()}


def make(
    photos: list[Path], teacher_folder: Path, out: Path, count: int, part: tuple[int, int] = (1, 1)
) -> None:
    """Write the shards of `count` pairs that are not in `out` yet; part: (which, of how many)."""
    from safetensors.torch import save

    numbers = range(part[0] - 1, -(-count // SHARD), part[1])
    missing = [number for number in numbers if not _path(out, number).exists()]
    if not missing:
        return
    out.mkdir(parents=True, exist_ok=True)
    teacher, pool = load(fetch(teacher_folder)).model, PhotoPool(photos, SIDE)
    for number in missing:
        write_bytes_atomically(_path(out, number), save(make_shard(number, pool, teacher)))
        log.info("shard %d of %d", number + 1, numbers.stop)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:04}.safetensors"


def read(folder: Path) -> Pairs:
    """All pairs in `folder`. Raises FileNotFoundError if there is none."""
    from safetensors.torch import load_file

    shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    if not shards:
        raise FileNotFoundError(f"no pairs in {folder}: run training.recipes.tiny.pairs")
    return Pairs(**{name: torch.cat([shard[name] for shard in shards]) for name in ("lq", "teacher", "hq")})


def _part(text: str) -> tuple[int, int]:
    which, _, parts = text.partition("/")
    return int(which), int(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--teacher", type=Path, required=True, help=f"folder of {FILE}, fetched if it is not there"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--part", type=_part, default=(1, 1), help="K/N: only each N-th shard, from the K-th")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    make(args.photos, args.teacher, args.out, args.count, args.part)


if __name__ == "__main__":
    main()
