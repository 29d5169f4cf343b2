"""A picture once it left its file: floats, an optional alpha, and what is needed to save it alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

    from .metadata import Metadata


@dataclass(frozen=True)
class Picture:
    """One still image, upright, with straight (not premultiplied) alpha.

    rgb: float32 (H, W, 3) in [0, 1], in the colour space of `icc` (sRGB if None). alpha: float32 (H, W) in
    [0, 1] or None if the file has none. bits: 8 or 16 per channel, of the file. single_channel: the file is a
    grey one; its three rgb channels are equal and it is saved with one. icc: the embedded ICC profile, valid
    for rgb (or for grey). notes: what the user should know about how it was read, each a clause without a
    full stop. metadata: EXIF and resolution of the file. Raises ImageError if shapes do not fit.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    single_channel: bool = False
    icc: bytes | None = None
    notes: tuple[str, ...] = ()
    metadata: Metadata | None = None

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or 0 in self.rgb.shape:
            raise ImageError(
                f"A picture needs an (H, W, 3) array with at least one pixel, got {self.rgb.shape}."
            )
        if self.alpha is not None and self.alpha.shape != self.rgb.shape[:2]:
            raise ImageError(
                f"The alpha channel {self.alpha.shape} does not fit the picture {self.rgb.shape[:2]}."
            )
        if self.bits not in (8, 16):
            raise ImageError(f"A picture has 8 or 16 bits per channel, not {self.bits}.")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def is_grey(self) -> bool:
        """Whether no pixel has a colour, whatever the file's mode."""
        return self.single_channel or bool((self.rgb == self.rgb[..., :1]).all())

    def planes(self) -> Tensor:
        """The picture as the core's functions take it: (3 or 4, H, W) in [-1, 1], the fourth its alpha."""
        import torch

        channels = self.rgb if self.alpha is None else np.dstack([self.rgb, self.alpha])
        return torch.from_numpy(channels).permute(2, 0, 1) * 2 - 1

    def rgb8(self) -> np.ndarray:
        """The colours alone, as uint8 (H, W, 3), rounded to a level."""
        return np.rint(np.clip(self.rgb, 0.0, 1.0) * np.float32(255)).astype(np.uint8)

    def samples(self, bits: int | None = None) -> np.ndarray:
        """The picture as a file stores it: uint8 or uint16 (H, W) or (H, W, 2|3|4), rounded to a level."""
        bits = bits or self.bits
        channels = self.rgb[..., :1] if self.single_channel else self.rgb
        if self.alpha is not None:
            channels = np.concatenate([channels, self.alpha[..., None]], axis=-1)
        if channels.shape[-1] == 1:
            channels = channels[..., 0]
        top = 2**bits - 1
        levels = np.rint(np.clip(channels, 0.0, 1.0) * np.float32(top))
        return np.ascontiguousarray(levels.astype(np.uint8 if bits == 8 else np.uint16))
