"""A pool of photographs held in memory, from which sharp random crops are drawn."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ...data.pictures import to_tensor

log = logging.getLogger(__name__)

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
CELL = 64  # px: the grid on which sharpness is known
SHARP = 6.0  # mean |Laplacian| of 255 levels that counts as sharp
SOFT_PHOTO = 4.0  # a photo below this is shrunk by two: upsampled or out-of-focus 4K pictures
VALIDATION_FOLDERS = {"kodak"}
# Pictures in the sources that are drawings, icons or screenshots, by file stem.
NOT_PHOTOS = {"screenshot", "icon-message", "abstract-geometric-art", "abstract-spiral", "blue-periwinkle"}


def _laplacian(grey: np.ndarray) -> np.ndarray:
    inner = grey[1:-1, 1:-1]
    return np.abs(4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:])


def load_photo(path: Path) -> np.ndarray:
    """uint8 (H, W, 3); soft photographs come back at half size."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if _laplacian(np.asarray(image.convert("L"), np.float32)).mean() < SOFT_PHOTO and min(image.size) >= 1024:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    return np.asarray(image)


class PhotoPool:
    """All photographs below `folders`, with cells of CELL px drawn in proportion to their sharpness.

    least: px, the shortest side of those that are drawn from, and the largest crop. Raises FileNotFoundError when there
    is no photograph.
    """

    def __init__(self, folders: list[Path], least: int = 4 * CELL) -> None:
        paths = [
            path
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES
            and path.stem not in NOT_PHOTOS
            and not VALIDATION_FOLDERS & set(path.relative_to(folder).parts)
        ]
        if not paths:
            searched = ", ".join(map(str, folders))
            raise FileNotFoundError(f"no photograph below {searched}: run training.recipes.tiny.fetch_photos")
        self.paths = paths
        self.photos = [load_photo(path) for path in paths]
        cells, weights = [], []
        for index, photo in enumerate(self.photos):
            height, width = photo.shape[:2]
            if min(height, width) < least:
                continue
            sharpness = _laplacian(np.asarray(Image.fromarray(photo).convert("L"), np.float32))
            rows, columns = sharpness.shape[0] // CELL, sharpness.shape[1] // CELL
            means = (
                sharpness[: rows * CELL, : columns * CELL]
                .reshape(rows, CELL, columns, CELL)
                .mean(axis=(1, 3))
            )
            for row, column in np.ndindex(rows, columns):
                cells.append((index, row * CELL, column * CELL))
                weights.append(0.15 + min(1.0, means[row, column] / SHARP))
        if not cells:
            raise FileNotFoundError(f"no photograph has sides of {least} px: give larger ones")
        self.cells = np.array(cells)
        self.cumulative = np.cumsum(weights) / np.sum(weights)
        megapixels = sum(photo.shape[0] * photo.shape[1] for photo in self.photos) / 1e6
        log.info("%d photographs, %.0f megapixels, %d cells", len(paths), megapixels, len(cells))

    def place(self, size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """(photo, top, left) of a random `size` px crop around a drawn cell."""
        return self._around(self._cell(rng), size, rng)

    def _cell(self, rng: np.random.Generator) -> np.ndarray:
        return self.cells[np.searchsorted(self.cumulative, rng.random())]

    def _around(self, cell: np.ndarray, size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        index, top, left = cell
        height, width = self.photos[index].shape[:2]
        slack = size - CELL
        top = np.clip(top + rng.integers(-max(slack, 0) - CELL // 2, CELL // 2 + 1), 0, height - size)
        left = np.clip(left + rng.integers(-max(slack, 0) - CELL // 2, CELL // 2 + 1), 0, width - size)
        return int(index), int(top), int(left)

    def crop(self, size: int, rng: np.random.Generator, shrink: int = 1) -> np.ndarray:
        """One uint8 (size, size, 3) crop, mirrored at random.

        shrink > 1 area-averages a field that much larger, or as much as the photograph has.
        """
        cell = self._cell(rng)
        shrink = min(shrink, min(self.photos[cell[0]].shape[:2]) // size)
        field = size * shrink
        index, top, left = self._around(cell, field, rng)
        picture = self.photos[index][top : top + field, left : left + field]
        if shrink > 1:
            picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))
        return picture[:, ::-1] if rng.random() < 0.5 else picture

    def batch(self, count: int, size: int, rng: np.random.Generator) -> Tensor:
        """(count, 3, size, size) in [-1, 1]; one crop in five shows a shrunk, hence sharper and busier, field."""
        crops = [
            self.crop(size, rng, shrink=2 if size <= 128 and rng.random() < 0.2 else 1) for _ in range(count)
        ]
        return to_tensor(np.stack(crops))
