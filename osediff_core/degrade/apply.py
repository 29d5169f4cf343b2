"""Application of a Degradation to a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ImageError
from . import jpeg, noise, operations
from .parameters import Blur, Degradation, Jpeg, Noise, Pick, Resize, Sharpen, Step


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
    if degradation.back is None:
        return operations.quantise(lq)
    if degradation.round_last:
        return operations.quantise(_apply_step(lq, degradation.back))
    return _apply_step(operations.quantise(lq), degradation.back).clamp(0, 1)


def _apply_step(image: Tensor, step: Step) -> Tensor:
    match step:
        case Blur(kernel):
            return operations.correlate(image, kernel.weights())
        case Resize():
            return _resize(image, step)
        case Pick(stride):
            return image[..., ::stride, ::stride]
        case Noise():
            return _add_noise(image, step)
        case Jpeg(quality, differentiable):
            if differentiable:
                return jpeg.diff_jpeg(image, quality)
            return jpeg.compress_jpeg(image, round(quality))
        case Sharpen():
            return operations.sharpen(image)
    raise TypeError(f"{step!r} is no step of a degradation.")


def _resize(image: Tensor, step: Resize) -> Tensor:
    if step.factor is None:
        resized = operations.resize_to(image, step.size, step.mode, step.antialias)
    else:
        resized = operations.resize_by(image, step.factor, step.mode, step.antialias)
    return resized.clamp(0, 1) if step.clip else resized


def _add_noise(image: Tensor, step: Noise) -> Tensor:
    match step.kind:
        case "poisson":
            return noise.add_poisson_noise(image, step.strength, step.grey, step.seed)
        case "photon":
            return noise.add_photon_noise(image, step.strength, step.grey, step.seed)
        case "speckle":
            return noise.add_speckle_noise(image, step.strength, step.grey, step.seed, step.covariance)
    if step.covariance is not None:
        return noise.add_correlated_noise(image, step.covariance, step.seed)
    return noise.add_gaussian_noise(image, step.strength, step.grey, step.seed)
