"""Pictures as the tagger sees them: squashed to a square without antialiasing, normalised as ImageNet."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError
from ..geometry import fill_transparent

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def preprocess(image: Tensor, size: int, antialias: bool = False) -> Tensor:
    """image (B, 1|3|4, H, W) in [-1, 1], grey, RGB or RGB with alpha -> pixels (B, 3, size, size), normalised, fp32.

    Both sides are resized to `size`, whatever the aspect ratio. The official code resizes a tensor with torchvision
    0.15 (its pin), which is bilinear without antialiasing; since torchvision 0.17 the same call antialiases and
    gives other numbers (up to 0.6 apart at edges). DAPE was trained, and OSEDiff is run, the first way, so it is
    the default. Alpha (also in [-1, 1]) only decides whose colours count: what it hides takes those around it.
    Raises ImageError for another shape or values that are not finite.
    """
    if image.ndim != 4 or image.shape[1] not in (1, 3, 4) or 0 in image.shape:
        raise ImageError(
            f"A picture to be tagged has the shape {tuple(image.shape)}; (batch, 1, 3 or 4 channels, height, width) "
            "with at least one pixel is needed."
        )
    planes = (image.float() + 1) / 2
    if not bool(torch.isfinite(planes).all()):
        raise ImageError("A picture to be tagged has NaN or infinite values; check what made it.")
    rgb = (
        fill_transparent(planes[:, :3], planes[:, 3:])
        if planes.shape[1] == 4
        else planes.expand(-1, 3, -1, -1)
    )
    small = F.interpolate(rgb, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
    mean, std = (torch.tensor(values, device=small.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (small - mean) / std


def preprocess_each(
    images: Tensor | Iterable[Tensor], size: int, device: torch.device, antialias: bool = False
) -> Tensor:
    """A batch (B, C, H, W), or pictures (C, H, W) of any sizes, in [-1, 1] -> pixels (B, 3, size, size) on `device`.

    One picture after the other, so that a batch of large ones needs memory for one. Raises ImageError.
    """
    pixels = []
    for image in images:
        if image.ndim != 3:
            raise ImageError(
                f"A picture to be tagged has the shape {tuple(image.shape)}; (channels, height, width) is needed."
            )
        pixels.append(preprocess(image[None].to(device), size, antialias))
    if not pixels:
        raise ImageError("There is no picture to be tagged; give at least one.")
    return torch.cat(pixels)
