"""The pictures beside the example workflows: what each made of its photo."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from .server import PACK
from .workflow_notes import About

PHOTOS = PACK / "examples" / "photos"
SIZE = (512, 384)


def make_thumbnail(about: About, made: list[bytes], screenshot: Path, target: Path) -> None:
    """Writes a JPEG: before | after of the photo, a sheet as it is, or the graph where no run is possible."""
    if not made:
        with Image.open(screenshot) as page:
            picture = page.crop(
                (page.width // 10, page.height // 10, page.width * 9 // 10, page.height * 9 // 10)
            )
    elif about.sheet:
        picture = _open(made[-1])
    else:
        with Image.open(PHOTOS / about.photo) as photo:
            picture = _before_after(photo.convert("RGB"), _open(made[0]), about.zoom)
    picture = picture.convert("RGB")
    picture.thumbnail(SIZE, Image.Resampling.LANCZOS)
    picture.save(target, quality=90, optimize=True)


def _open(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def _before_after(before: Image.Image, after: Image.Image, zoom: float) -> Image.Image:
    """The middle of the picture, so many times larger: the left half only enlarged, the right half restored."""
    sheet = before.resize(after.size, Image.Resampling.BICUBIC)
    middle = after.width // 2
    sheet.paste(after.crop((middle, 0, *after.size)), (middle, 0))
    ImageDraw.Draw(sheet).line([(middle, 0), (middle, sheet.height)], fill="white", width=3)
    left, top = (round(side * (1 - 1 / zoom) / 2) for side in sheet.size)
    return sheet.crop((left, top, sheet.width - left, sheet.height - top))
