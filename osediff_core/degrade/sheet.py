"""A contact sheet: low-quality pictures beside the good ones, to look at what a preset does."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_GAP = 8  # px
_INK, _PAPER = (230, 230, 230), (32, 32, 32)
_LINE = 13  # px, of a caption
_GLYPH = 5.2  # px, a generous mean width of Pillow's own font


@dataclass(frozen=True)
class Pair:
    """lq and hq: RGB of the same size. caption: what was done."""

    lq: Image.Image
    hq: Image.Image
    caption: str


def crop_pair(lq: Image.Image, hq: Image.Image, caption: str, side: int = 384) -> Pair:
    """The middle of both, at most `side` px of the good picture, and small ones as many times larger as fit.

    Both are enlarged by repeating pixels, so that what is seen is what is there.
    """
    width, height = (min(side, length) for length in hq.size)
    left, top = (hq.width - width) // 2, (hq.height - height) // 2
    box = (left, top, left + width, top + height)
    across, down = lq.width / hq.width, lq.height / hq.height
    part = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    zoom = max(1, side // max(width, height))
    shown = (width * zoom, height * zoom)
    low, high = (
        picture.convert("RGB").resize(shown, Image.Resampling.NEAREST, box=region)
        for picture, region in ((lq, part), (hq, box))
    )
    return Pair(low, high, caption)


def contact_sheet(pairs: Sequence[Pair]) -> Image.Image:
    """RGB: each pair as lq, hq with its caption below; two pairs side by side where there are more than three."""
    columns = 1 if len(pairs) <= 3 else 2
    half = max(160, *(pair.hq.width for pair in pairs))
    cell = 2 * half + _GAP
    captions = [textwrap.wrap(pair.caption, math.floor(cell / _GLYPH)) for pair in pairs]
    rows = [range(i, min(i + columns, len(pairs))) for i in range(0, len(pairs), columns)]
    heights = [max(pairs[i].hq.height + _LINE * len(captions[i]) + 2 * _GAP for i in row) for row in rows]
    sheet = Image.new("RGB", (columns * (cell + _GAP) + _GAP, sum(heights) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = _GAP + column * (cell + _GAP)
            sheet.paste(pairs[i].lq, (left, top))
            sheet.paste(pairs[i].hq, (left + pairs[i].lq.width + _GAP, top))
            for line, text in enumerate(captions[i]):
                draw.text((left, top + pairs[i].hq.height + 4 + line * _LINE), text, _INK, font)
        top += height
    return sheet
