"""An image as it lies in its file, between a decoder and `Picture`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colour_space import ColourSpace
from .metadata import Metadata


@dataclass(frozen=True)
class Stored:
    """Not yet upright, not yet float.

    samples: uint8 or uint16 (H, W[, 2|3|4]), alpha straight. orientation: the EXIF tag's value. icc: profile or None.
    frames: how many frames or pages the file holds. bits: per channel in the file, where samples have fewer. space:
    the colours that the file declares otherwise. notes: what else the user should know.
    """

    samples: np.ndarray
    orientation: int
    icc: bytes | None
    frames: int
    bits: int = 8
    space: ColourSpace | None = None
    metadata: Metadata | None = None
    notes: tuple[str, ...] = ()
