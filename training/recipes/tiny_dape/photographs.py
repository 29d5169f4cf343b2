"""The photographs, what is in each (photo_tags.txt), and which are held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..tiny.photos import SUFFIXES

TAGS_FILE = Path(__file__).with_name("photo_tags.txt")
TRAIN, CALIBRATION, HELD_OUT = "train", "calibration", "held-out"
_SHORT_SIDE = 1024  # px: more would never be seen
# of the photographs that are not Kodak's, which are all held out
_HELD_OUT_SHARE, _CALIBRATION_SHARE = 0.15, 0.12


@dataclass(frozen=True)
class Photograph:
    """key: source/beginning of the file's name, as in photo_tags.txt. tags: names of RAM's list."""

    key: str
    path: Path
    tags: tuple[str, ...]
    split: str

    def load(self) -> Image.Image:
        """RGB, the shorter side at most 1024 px."""
        with Image.open(self.path) as opened:
            image = opened.convert("RGB")
        scale = _SHORT_SIDE / min(image.size)
        if scale < 1:
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.LANCZOS)
        return image


def listed_tags() -> dict[str, tuple[str, ...]]:
    """key -> tags, in the file's order."""
    lines = TAGS_FILE.read_text(encoding="utf-8").splitlines()
    rows = (line.partition(": ") for line in lines if line and not line.startswith("#"))
    return {key: tuple(tags.split(", ")) for key, _, tags in rows}


def splits(seed: int = 0) -> dict[str, str]:
    """key -> the part that the photograph belongs to: the same ones for everybody."""
    keys = list(listed_tags())
    others = [key for key in keys if not key.startswith("kodak/")]
    order = np.random.default_rng(seed).permutation(len(others))
    held_out = round(_HELD_OUT_SHARE * len(others))
    calibration = held_out + round(_CALIBRATION_SHARE * len(others))
    found = dict.fromkeys(keys, HELD_OUT)
    for place, number in enumerate(order):
        if place >= held_out:
            found[others[number]] = CALIBRATION if place < calibration else TRAIN
    return found


def find_photographs(folder: Path) -> list[Photograph]:
    """All listed photographs below `folder`/SOURCE. Raises FileNotFoundError, which names what is missing."""
    parts, found, missing = splits(), [], []
    files: dict[str, list[Path]] = {}
    for key, tags in listed_tags().items():
        source, _, start = key.partition("/")
        if source not in files:
            paths = sorted((folder / source).rglob("*"))
            files[source] = [path for path in paths if path.suffix.lower() in SUFFIXES]
        exact = [path for path in files[source] if path.stem == start]
        path = next(iter(exact or [path for path in files[source] if path.name.startswith(start)]), None)
        if path is None:
            missing.append(key)
        else:
            found.append(Photograph(key, path, tags, parts[key]))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} photographs are not below {folder}, the first one is {missing[0]}: run "
            "training.recipes.tiny_dape.fetch_photos"
        )
    return found
