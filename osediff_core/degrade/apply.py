"""Do to a picture what a Degradation says."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ImageError
from . import operations
from .parameters import Blur, Degradation, Jpeg, Noise, Resize, Step


@torch.no_grad()
def apply(image: Tensor, degradation: Degradation) -> Tensor:
    """Does what `degradation` says: fp32 (1, 3, H, W) in [0, 1] -> (1, 3, H', W') in [0, 1]. Nothing is drawn.

    Raises ImageError if the picture has another size than the one the degradation was drawn for.
    """
    size = (image.shape[-1], image.shape[-2])
    if size != degradation.source:
        raise ImageError(
            f"This degradation is for {degradation.source[0]}x{degradation.source[1]} pixels, the image has "
            f"{size[0]}x{size[1]}; draw one for its size."
        )
    lq = image.clamp(0, 1)
    for step in degradation.steps:
        lq = _apply_step(lq, step)
    lq = operations.quantise(lq)
    return lq if degradation.back is None else _apply_step(lq, degradation.back).clamp(0, 1)


def _apply_step(image: Tensor, step: Step) -> Tensor:
    match step:
        case Blur(kernel):
            return operations.correlate(image, kernel.weights())
        case Resize(mode, _, float(factor), antialias):
            return operations.resize_by(image, factor, mode, antialias)
        case Resize(mode, size, None, antialias):
            return operations.resize_to(image, size, mode, antialias)
        case Noise("gaussian", sigma, grey, seed):
            return operations.add_gaussian_noise(image, sigma, grey, seed)
        case Noise("poisson", strength, grey, seed):
            return operations.add_poisson_noise(image, strength, grey, seed)
        case Jpeg(quality):
            return operations.compress_jpeg(image, quality)
    raise TypeError(f"{step!r} is no step of a degradation.")
