"""Conversions between ComfyUI and the core: IMAGE, and stamps of files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor

from ..osediff_core.errors import ImageError


def split_image(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """IMAGE (B, H, W, 1|3|4) in [0, 1] -> rgb (B, 3, H, W) and alpha (B, 1, H, W) or None.

    Raises ImageError for an empty batch and for other shapes.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ImageError(
            f"The IMAGE has the shape {tuple(image.shape)}; at least one picture with 1, 3 or 4 channels is needed "
            "as (batch, height, width, channels)."
        )
    planes = image.movedim(-1, 1).float()
    if planes.shape[1] == 4:
        return planes[:, :3], planes[:, 3:]
    return planes.expand(-1, 3, -1, -1), None


def join_image(frames: list[Tensor], alpha: Tensor | None = None) -> Tensor:
    """rgb frames, each (1, 3, H, W), and alpha (B, 1, H, W) or None -> IMAGE (B, H, W, 3|4), contiguous."""
    management = comfy.model_management
    image = torch.cat([frame.to(management.intermediate_device()) for frame in frames])
    if alpha is not None:
        image = torch.cat([image, alpha.to(image).expand(image.shape[0], -1, -1, -1)], dim=1)
    return image.movedim(1, -1).contiguous().to(management.intermediate_dtype())


def stamp(paths: Iterable[str | None]) -> str:
    """Changes when one of the files does: for `fingerprint_inputs`, so that a replaced file is read again."""
    return repr([file_state(path) if path and os.path.exists(path) else None for path in paths])


def file_state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Time of writing and size in bytes, which tell a replaced file, or folder of files, from the one before."""
    found = [os.stat(part) for part in (path, *Path(path).rglob("*"))]
    return max(part.st_mtime_ns for part in found), sum(part.st_size for part in found)
