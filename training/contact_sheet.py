"""Pictures side by side with a line of text below each: what figures do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = "#ffffff", "#1f2430", "#6b7280"
_GAP, _HEADER, _LINE = 6, 30, 24  # px


@dataclass(frozen=True)
class Row:
    """pictures: uint8 (H, W, 3), all of one size. captions: one below each."""

    pictures: tuple[np.ndarray, ...]
    captions: tuple[str, ...]


def contact_sheet(rows: Sequence[Row], titles: Sequence[str], side: int) -> Image.Image:
    """One row a pair, one column a title; each picture's centre at 1:1, at most `side` px wide and high."""
    cells = [[_centre(picture, side) for picture in row.pictures] for row in rows]
    width = max((cell.width for row in cells for cell in row), default=side)
    heights = [row[0].height + _LINE + _GAP for row in cells]
    page = Image.new("RGB", (len(titles) * (width + _GAP) + _GAP, _HEADER + sum(heights)), PAPER)
    draw = ImageDraw.Draw(page)
    header, caption = ImageFont.load_default(15), ImageFont.load_default(12)
    lefts = [_GAP + column * (width + _GAP) for column in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left, 7), title, fill=INK, font=header)
    top = _HEADER
    for row, row_cells, height in zip(rows, cells, heights, strict=True):
        for left, cell, text in zip(lefts, row_cells, row.captions, strict=True):
            page.paste(cell, (left, top))
            draw.text((left, top + cell.height + 4), _fitted(text, caption, width), fill=FAINT, font=caption)
        top += height
    return page


def _centre(picture: np.ndarray, side: int) -> Image.Image:
    height, width = picture.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return Image.fromarray(picture[top : top + side, left : left + side])


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut at its end where it is wider than `width` px."""
    while text and font.getlength(text) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text
