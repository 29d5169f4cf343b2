"""Tags that are measured on pixels: the colours that a person would name first, and dark and bright."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ...data.appearance import HUES

COLOURS = sorted({name for _, name in HUES})
NAMES = (*COLOURS, "dark", "bright")
SHARE = 0.3  # of the pixels, from which on a colour is one of the picture's
_SATURATED, _LIT = 64, 48  # of 255 levels: what counts as coloured at all
_DARK, _BRIGHT = 60, 190  # mean level


def colour_tags(picture: np.ndarray) -> set[str]:
    """uint8 (H, W, 3) -> some of NAMES."""
    image = Image.fromarray(picture)
    hue, saturation, value = np.asarray(image.convert("HSV")).transpose(2, 0, 1).astype(np.float32)
    coloured, degrees = (saturation > _SATURATED) & (value > _LIT), hue * (360 / 256)
    shares, start = dict.fromkeys(COLOURS, 0.0), 0
    for end, name in HUES:
        shares[name] += (coloured & (degrees >= start) & (degrees < end)).mean()
        start = end
    found = {name for name, share in shares.items() if share >= SHARE}
    level = np.asarray(image.convert("L")).mean()
    return found | ({"dark"} if level < _DARK else {"bright"} if level > _BRIGHT else set())
