"""Samples of Pillow's images: any mode as 8-bit grey or RGB, 16-bit grey, with alpha where there is some."""

from __future__ import annotations

import io
from typing import cast

import numpy as np
from PIL import Image, ImageCms


def samples_of(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Any Pillow mode -> uint8 (H, W[, 2|3|4]), uint16 for 16-bit grey, and the ICC profile that fits them."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image.convert("I")).astype(np.uint16), icc
    if mode == "I":  # a PGM of 16 bits, see open_image
        return np.asarray(image).astype(np.uint16), icc
    if mode in ("CMYK", "LAB"):
        image, icc = _to_srgb(image, icc)
    elif "transparency" in image.info and mode in ("1", "L", "RGB", "P"):
        image = image.convert("LA" if mode in ("1", "L") else "RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image), icc


def cmyk_to_srgb(samples: np.ndarray, icc: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """uint8 (H, W, 4), 255 for full ink -> uint8 (H, W, 3) and its profile."""
    image, icc = _to_srgb(Image.fromarray(np.ascontiguousarray(samples), "CMYK"), icc)
    return np.asarray(image), icc


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """CMYK or LAB -> RGB by the embedded profile, so that colours are those of print; else by Pillow's formula."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        if icc:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        elif image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            return image.convert("RGB"), None
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        return cast("Image.Image", converted), srgb.tobytes()  # None is for inPlace=True alone
    except (ImageCms.PyCMSError, OSError):  # a broken profile must not cost the picture
        return image.convert("RGB"), None
