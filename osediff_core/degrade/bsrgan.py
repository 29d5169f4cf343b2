"""BSRGAN's two degradations (arXiv 2103.14006; `utils_blindsr.py` of cszn/BSRGAN): draw one picture's steps.

There is no camera noise: it needs a network (an ISP model) that its authors do not publish. A picture of any size is
taken as it is; the official code crops it to a multiple of the scale first.
"""

from __future__ import annotations

import math

import numpy as np

from .noise import Covariance
from .operations import resized_length
from .parameters import Blur, Jpeg, Kernel, Noise, Pick, Resize, Step
from .preset import BSRGAN, BSRGANBlur, BSRGANNoise, BSRGANPlus
from .realesrgan import draw_factor, one_of

Size = tuple[int, int]
_SHARPEST = 0.01  # px; a Gaussian this narrow is a single tap, and narrower ones divide by 0


def draw(
    recipe: BSRGAN, size: Size, target: Size, scale: float, rng: np.random.Generator
) -> tuple[list[Step], Resize]:
    """The paper's degradation for a picture of `size` = (width, height) that is to have size `target`.

    Two blurs, down-A, down-B, Gaussian noise and JPEG in random order, but down-A before down-B; then JPEG.
    """
    back = Resize(one_of(recipe.back, rng), size)
    steps: list[Step] = []
    if scale >= 4 and rng.random() < recipe.halve:
        size, scale = (resized_length(size[0], 0.5), resized_length(size[1], 0.5)), scale / 2
        antialias = bool(rng.random() < recipe.halve_antialiased)
        mode = "bicubic" if antialias else one_of(recipe.modes, rng)
        steps.append(Resize(mode, size, antialias=antialias, clip=True))
    parts: list[list[Step]] = [
        [_blur(recipe.blur, scale, rng)],
        [_blur(recipe.blur, scale, rng)],
        _down_a(recipe, size, scale, rng),
        [Resize(one_of(recipe.modes, rng), target, clip=True)],
        [_noise("gaussian", recipe.noise, rng)],
        [_jpeg(recipe.jpeg, rng)] if rng.random() < recipe.jpeg_inside else [],
    ]
    order = list(rng.permutation(len(parts)))
    a, b = order.index(2), order.index(3)
    order[min(a, b)], order[max(a, b)] = 2, 3
    steps += [step for part in order for step in parts[part]]
    return [*steps, _jpeg(recipe.jpeg, rng)], back


def _down_a(recipe: BSRGAN, size: Size, scale: float, rng: np.random.Generator) -> list[Step]:
    """A resize by any factor; or a Gaussian about the middle of each `scale` x `scale` pixels, and picking those."""
    stride = round(scale)
    if rng.random() < recipe.shrink_by_resize or stride < 2:
        factor = 1 / rng.uniform(1, recipe.shrink_largest * scale)
        smaller = (resized_length(size[0], factor), resized_length(size[1], factor))
        return [Resize(one_of(recipe.modes, rng), smaller, clip=True)]
    low, high = recipe.pick_sigma
    sigma = rng.uniform(low, high * scale)
    kernel = Kernel("gaussian", int(rng.choice(recipe.pick_taps)), (sigma, sigma), shift=(stride - 1) / 2)
    return [Blur(kernel), Pick(stride, (-(-size[0] // stride), -(-size[1] // stride)))]


def draw_plus(
    recipe: BSRGANPlus, size: Size, target: Size, scale: float, rng: np.random.Generator
) -> tuple[list[Step], Resize]:
    """The mixture with Real-ESRGAN for a picture of `size` = (width, height) that is to have size `target`.

    Blur, resize, noises, JPEG, blur, resize, noises, in this order or a random one; then the target size and JPEG.
    """
    back = Resize(one_of(recipe.back, rng), size)
    noises = ["gaussian", "photon", "speckle"]
    first, second = ([noises[i] for i in rng.permutation(3)] for _ in range(2))
    parts = ["blur", "first resize", *first, "jpeg", "blur", "second resize", *second]
    if rng.random() < recipe.shuffle:
        parts = [parts[i] for i in rng.permutation(len(parts))]
    steps: list[Step] = []
    for part in parts:
        match part:
            case "blur":
                steps.append(_blur(recipe.blur, scale, rng))
            case "jpeg":
                steps.append(_jpeg(recipe.jpeg, rng))
            case "first resize" | "second resize":
                divisor = recipe.first_scale if part == "first resize" else scale
                factor = draw_factor(recipe.resize, rng, recipe.resize.smallest / divisor)
                size = (resized_length(size[0], factor), resized_length(size[1], factor))
                steps.append(Resize(one_of(recipe.modes, rng), size, clip=True))
            case _:
                steps += _noise_of_a_round(part, recipe, rng)
    steps += [Resize(one_of(recipe.modes, rng), target, clip=True), _jpeg(recipe.jpeg, rng)]
    return steps, back


def _noise_of_a_round(kind: str, recipe: BSRGANPlus, rng: np.random.Generator) -> list[Step]:
    if kind == "gaussian":
        return [_noise("gaussian", recipe.noise, rng)]
    if kind == "speckle":
        return [_noise("speckle", recipe.noise, rng)] if rng.random() < recipe.speckle_probability else []
    if rng.random() >= recipe.photons_probability:
        return []
    photons, grey = 10 ** rng.uniform(*recipe.photons), bool(rng.random() < recipe.photons_grey)
    return [Noise("photon", photons, grey, _seed(rng))]


def _blur(ranges: BSRGANBlur, scale: float, rng: np.random.Generator) -> Blur:
    size = int(rng.choice(ranges.sizes))
    if rng.random() < ranges.isotropic:
        sigma = max(_SHARPEST, rng.uniform(0, ranges.width[0] + ranges.width[1] * scale))
        return Blur(Kernel("gaussian", size, (sigma, sigma)))
    widest = ranges.variance[0] + ranges.variance[1] * scale
    along, across = (max(_SHARPEST, math.sqrt(variance)) for variance in rng.uniform(0, widest, 2))
    return Blur(Kernel("gaussian", size, (along, across), rng.uniform(0, math.pi)))


def _noise(kind: str, ranges: BSRGANNoise, rng: np.random.Generator) -> Noise:
    level = float(rng.integers(ranges.levels[0], ranges.levels[1] + 1))
    which = rng.choice(3, p=(ranges.colour, ranges.grey, ranges.correlated))
    if which < 2:
        return Noise(kind, level, grey=bool(which), seed=_seed(rng))
    covariance = _covariance(ranges.levels[1], rng)
    mean = math.sqrt(sum(covariance[i][i] for i in range(3)) / 3)
    return Noise(kind, mean, grey=False, seed=_seed(rng), covariance=covariance)


def _covariance(level: float, rng: np.random.Generator) -> Covariance:
    """Random variances up to `level` squared, turned by a random basis. The absolute values are the official code's."""
    basis = np.linalg.svd(rng.random((3, 3)))[0]
    covariance = np.abs(basis.T @ np.diag(rng.random(3)) @ basis) * level**2
    return tuple(tuple(float(value) for value in row) for row in covariance)


def _jpeg(quality: tuple[int, int], rng: np.random.Generator) -> Jpeg:
    return Jpeg(int(rng.integers(quality[0], quality[1] + 1)))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))
