"""Bytes to an 8-bit RGB picture, whatever the file holds."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))


def decode(data: bytes) -> Image.Image:
    """RGB, upright, transparency on white, 16 bits rounded to 8. Raises what Pillow raises for a broken picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures; Pillow still refuses decompression bombs
        image = Image.open(io.BytesIO(data))
        image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, np.float32)
        image = Image.fromarray((levels / 257).round().clip(0, 255).astype(np.uint8))  # 65535 levels to 255
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
