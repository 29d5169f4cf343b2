"""Contact sheets: rows of pictures with a caption below each, to look at what scores do not tell."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PAPER, _INK, _FAINT = "#ffffff", "#1f2430", "#6b7280"
GAP = 6  # px, between pictures
_TITLE, _ABOVE, _LINE = 30, 3, 16  # px: heights of the titles, and above and of a caption's lines


class Cell(NamedTuple):
    """One place on a sheet. caption: below the picture."""

    picture: Image.Image
    caption: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Cell]], titles: Sequence[str] = (), lines: int | None = None
) -> Image.Image:
    """RGB. Columns, with a title each where there are `titles`, are as wide as the widest picture.

    lines: after how many of them a caption is cut; None: never. Raises ValueError where there is no picture.
    """
    width = max(cell.picture.width for row in rows for cell in row)
    title, caption = ImageFont.load_default(15), ImageFont.load_default(12)
    texts = [[_wrapped(cell.caption, caption, width, lines) for cell in row] for row in rows]
    heights = [
        max(
            cell.picture.height + _ABOVE + _LINE * len(text) + GAP
            for cell, text in zip(row, found, strict=True)
        )
        for row, found in zip(rows, texts, strict=True)
    ]
    columns, top = max(map(len, rows)), _TITLE if titles else GAP
    page = Image.new("RGB", (columns * (width + GAP) + GAP, top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(page)
    lefts = [GAP + column * (width + GAP) for column in range(columns)]
    for left, text in zip(lefts, titles, strict=False):
        draw.text((left, 7), text, _INK, title)
    for row, found, height in zip(rows, texts, heights, strict=True):
        for left, cell, text in zip(lefts, row, found, strict=False):
            page.paste(cell.picture, (left, top))
            for number, line in enumerate(text):
                draw.text((left, top + cell.picture.height + _ABOVE + number * _LINE), line, _FAINT, caption)
        top += height
    return page


def centre_crop(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, at most `side` px wide and high."""
    width, height = (min(side, length) for length in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int | None
) -> list[str]:
    """The lines of a caption, each about as wide as `width` px at most."""
    glyph = font.getlength(text) / len(text) if text else 1
    return textwrap.wrap(text, max(4, int(0.97 * width / glyph)), max_lines=lines, placeholder="…")
