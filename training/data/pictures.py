"""Training pictures as pixels: bytes to 8-bit RGB, whatever the file holds, and to tensors."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from osediff_core.errors import ImageError, first_line
from osediff_core.images import open_image


class BrokenPicture(Exception):
    """Why a picture cannot be used, as a clause."""


def decode(data: bytes) -> Image.Image:
    """The first frame as RGB: upright, transparency on white, 16 bits rounded to 8, CMYK by Pillow's formula.

    Raises BrokenPicture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures; Pillow still refuses decompression bombs
            image = open_image(data, "it")
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise BrokenPicture(str(error).rstrip(".")) from None
    except UnidentifiedImageError:
        raise BrokenPicture("it is no picture that can be read" if data else "it is empty") from None
    except Image.DecompressionBombError:
        raise BrokenPicture("it has more pixels than is safe to open") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
        raise BrokenPicture(f"it is damaged or cut short: {first_line(error)}") from error


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, whatever the mode has room for
        levels = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
