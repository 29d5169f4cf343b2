"""The pictures beside the example workflows: what each made of its photo, or what it would make with which models."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .server import PACK
from .workflow_about import About

PHOTOS = PACK / "examples" / "photos"
CLIP = PACK / "examples" / "clips" / "two_scenes.mp4"
SIDE = 512  # pixels; ComfyUI's page of templates shows squares
_TILE = 192  # pixels of the thumbnail between two lines of the picture in tiles
_INK, _PAPER, _LINE = "white", (0, 0, 0, 150), "white"
_TINTS = ((33, 60, 110), (120, 62, 20), (70, 40, 105))


def make_thumbnail(about: About, made: list[bytes], target: Path) -> None:
    """Writes a JPEG. made: what the workflow saved, the last node's last; nothing where it cannot run here."""
    picture = _DRAWN[about.thumbnail](about, made).convert("RGB")
    picture.save(target, quality=90, optimize=True)


def _split(about: About, made: list[bytes]) -> Image.Image:
    """Left the photo, only enlarged, right what became of it."""
    return _labelled(_halves(_photo(about), _open(made[0]), about.zoom), about.words)


def _tiles(about: About, made: list[bytes]) -> Image.Image:
    """The same, with lines where tiles meet."""
    picture = _halves(_photo(about), _open(made[0]), about.zoom)
    draw = ImageDraw.Draw(picture, "RGBA")
    for at in range(_TILE // 3, SIDE, _TILE):
        for line in ([(0, at), (SIDE, at)], [(at, 0), (at, SIDE)]):
            draw.line(line, fill=(255, 255, 255, 150), width=2)
    return _labelled(picture, about.words)


def _mosaic(about: About, made: list[bytes]) -> Image.Image:
    """Four photos, each before and after."""
    sheet, half = Image.new("RGB", (SIDE, SIDE), _LINE), SIDE // 2
    for place, (photo, png) in enumerate(zip(sorted(PHOTOS.glob("*.png")), made, strict=True)):
        with Image.open(photo) as before:
            part = _halves(before.convert("RGB"), _open(png), about.zoom).resize((half - 2, half - 2))
        sheet.paste(part, (place % 2 * (half + 2), place // 2 * (half + 2)))
    return _labelled(sheet, about.words)


def _strips(about: About, made: list[bytes]) -> Image.Image:
    """The pictures of a sheet, which stand side by side in it, as upright strips of the same place."""
    sheet = _open(made[-1])
    count = len(about.words)
    width, strip = (sheet.width - 8 * (count - 1)) // count, SIDE // count
    picture = Image.new("RGB", (SIDE, SIDE), _LINE)
    for place in range(count):
        part = sheet.crop((place * (width + 8), 0, place * (width + 8) + width, sheet.height))
        side = min(part.width, part.height) / about.zoom
        left, top = (part.width - side * strip / SIDE) * about.focus, (part.height - side) / 2
        box = (left, top, left + side * strip / SIDE, top + side)
        part = part.resize((strip - 3, SIDE), Image.Resampling.BICUBIC, box=box)
        picture.paste(part, (place * strip + 3 * (place > 0), 0))
    return _labelled(picture, about.words)


def _film(about: About, made: list[bytes]) -> Image.Image:
    """Frames of the clip on the left, of what became of it on the right, between a film's holes."""
    picture = Image.new("RGB", (SIDE, SIDE), (20, 20, 20))
    draw = ImageDraw.Draw(picture)
    for left, frames in ((46, _frames(CLIP)), (260, _frames(io.BytesIO(made[-1])))):
        for place, at in enumerate((0.1, 0.45, 0.9)):
            frame = frames[int(at * len(frames))].resize((206, 155), Image.Resampling.BICUBIC)
            picture.paste(frame, (left, 12 + place * 166))
    for top in range(8, SIDE, 32):
        for left in (12, SIDE - 32):
            draw.rounded_rectangle((left, top, left + 20, top + 16), 4, fill=(225, 225, 225))
    return _labelled(picture, about.words)


def _models(about: About, made: list[bytes]) -> Image.Image:
    """The photo before anything is done to it, in as many strips as there are words: the models to get."""
    photo = _square(_photo(about), (SIDE, SIDE), about.zoom)
    strip = SIDE // len(about.words)
    for place, tint in zip(range(len(about.words)), _TINTS, strict=False):
        box = (place * strip, 0, SIDE if place == len(about.words) - 1 else (place + 1) * strip, SIDE)
        part = photo.crop(box)
        photo.paste(Image.blend(part, Image.new("RGB", part.size, tint), 0.45), box[:2])
    draw = ImageDraw.Draw(photo)
    for place in range(1, len(about.words)):
        draw.line([(place * strip, 0), (place * strip, SIDE)], fill=_LINE, width=3)
    return _labelled(photo, about.words, middle=True)


_DRAWN: dict[str, Callable[[About, list[bytes]], Image.Image]] = {
    "split": _split,
    "tiles": _tiles,
    "mosaic": _mosaic,
    "strips": _strips,
    "film": _film,
    "models": _models,
}


def _photo(about: About) -> Image.Image:
    with Image.open(PHOTOS / about.photo) as photo:
        return photo.convert("RGB")


def _open(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def _frames(file: Path | io.BytesIO) -> list[Image.Image]:
    import av  # of ComfyUI's requirements

    with av.open(str(file) if isinstance(file, Path) else file) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def _square(picture: Image.Image, size: tuple[int, int], zoom: float) -> Image.Image:
    """The middle of a picture, so many times larger than the square that fits into it."""
    side = min(picture.size) / zoom
    left, top = ((length - side) / 2 for length in picture.size)
    return picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _halves(before: Image.Image, after: Image.Image, zoom: float) -> Image.Image:
    """A square: the left half only enlarged, the right half restored."""
    picture, restored = (_square(part, (SIDE, SIDE), zoom) for part in (before, after))
    picture.paste(restored.crop((SIDE // 2, 0, SIDE, SIDE)), (SIDE // 2, 0))
    ImageDraw.Draw(picture).line([(SIDE // 2, 0), (SIDE // 2, SIDE)], fill=_LINE, width=3)
    return picture


def _labelled(picture: Image.Image, words: tuple[str, ...], middle: bool = False) -> Image.Image:
    """Each word, of several lines perhaps, in its part of the picture's width: at its foot, or in its middle."""
    draw = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(size=30 if middle else 24)
    for place, text in enumerate(words):
        centre = ((place + 0.5) * SIDE / len(words), SIDE / 2 if middle else SIDE - 34)
        left, top, right, bottom = draw.multiline_textbbox(
            centre, text, font=font, anchor="mm", align="center"
        )
        draw.rounded_rectangle((left - 12, top - 8, right + 12, bottom + 8), 8, fill=_PAPER)
        draw.multiline_text(centre, text, font=font, anchor="mm", align="center", fill=_INK)
    return picture
