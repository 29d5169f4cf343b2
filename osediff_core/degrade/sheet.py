"""Contact sheets of low-quality pictures beside the good ones, to look at what a preset does."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ..images.sheet import GAP, PAPER, Cell, contact_sheet

_LEAST = 320  # px, the width of a caption


def pair(lq: Image.Image, hq: Image.Image, caption: str, side: int = 384) -> Cell:
    """The middles of both beside each other, at most `side` px of the good picture; small ones many times larger.

    Both are enlarged by repeating pixels, so that what is seen is what is there. caption: what was done.
    """
    width, height = (min(side, length) for length in hq.size)
    left, top = (hq.width - width) // 2, (hq.height - height) // 2
    box = (left, top, left + width, top + height)
    across, down = lq.width / hq.width, lq.height / hq.height
    part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    zoom = max(1, side // max(width, height))
    width, height = width * zoom, height * zoom
    both = Image.new("RGB", (max(_LEAST, 2 * width + GAP), height), PAPER)
    for picture, region, at in ((lq, part, 0), (hq, box, width + GAP)):
        shown = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST, box=region)
        both.paste(shown, (at, 0))
    return Cell(both, caption)


def sheet_of(pairs: Sequence[Cell]) -> Image.Image:
    """RGB: two pairs side by side where there are more than three."""
    columns = 1 if len(pairs) <= 3 else 2
    return contact_sheet([pairs[i : i + columns] for i in range(0, len(pairs), columns)])
