"""Real-ESRGAN's high-order degradation (arXiv 2107.10833, section 3): draw one picture's steps from a preset."""

from __future__ import annotations

import math

import numpy as np

from ..geometry import target_size
from .operations import resized_length
from .parameters import Blur, Degradation, Jpeg, Kernel, Noise, Resize, Step
from .presets import (
    SINC_CUTOFF,
    SINC_CUTOFF_LARGE,
    SINC_LARGE,
    BlurRanges,
    NoiseRanges,
    Order,
    Preset,
    ResizeRanges,
)

_SINC_SIZES = BlurRanges.sizes  # of the final filter: 7 to 21
_ISOTROPIC, _FAMILIES = (True, False), ("gaussian", "generalised", "plateau")


def draw(
    name: str, preset: Preset, size: tuple[int, int], scale: float, rng: np.random.Generator
) -> Degradation:
    """The steps for a picture of `size` = (width, height) that is to be `scale` times smaller.

    All orders but the last: blur, resize, noise, JPEG. The last one has the target size and, at the end, JPEG
    and the pair of (exact target size, sinc filter) in either order.
    `back` is always drawn, so that the rest does not depend on whether it is wanted.
    """
    target = target_size(*size, scale=1 / scale)
    steps: list[Step] = []
    current = size
    for order in preset.orders[:-1]:
        steps += _blur(order, rng)
        factor = _factor(order.resize, rng)
        resize = Resize(
            _mode(preset, rng),
            (resized_length(current[0], factor), resized_length(current[1], factor)),
            factor,
            preset.antialias,
        )
        if factor != 1:
            steps.append(resize)
            current = resize.size
        steps += _noise(order.noise, rng) + _jpeg(order, rng)
    steps += _last_order(preset, current, target, rng)
    back = Resize(preset.back[rng.integers(len(preset.back))], size)
    return Degradation(name, size, tuple(steps), back)


def _last_order(
    preset: Preset, current: tuple[int, int], target: tuple[int, int], rng: np.random.Generator
) -> list[Step]:
    order = preset.orders[-1]
    blur = _blur(order, rng)
    factor = _factor(order.resize, rng)
    near = (resized_length(target[0], factor), resized_length(target[1], factor))
    noise = _noise(order.noise, rng)
    jpeg = _jpeg(order, rng)
    exact = _resize_to(target, near, preset, rng)
    if rng.random() < preset.final_sinc:
        size = int(rng.choice(_SINC_SIZES))
        exact.append(Blur(Kernel("sinc", size, cutoff=rng.uniform(*SINC_CUTOFF))))
    ending = exact + jpeg if rng.random() < preset.jpeg_last else jpeg + exact
    return blur + _resize_to(near, current, preset, rng) + noise + ending


def _blur(order: Order, rng: np.random.Generator) -> list[Step]:
    if order.blur is None or rng.random() >= order.blur.probability:
        return []
    return [Blur(_kernel(order.blur, rng))]


def _kernel(ranges: BlurRanges, rng: np.random.Generator) -> Kernel:
    size = int(rng.choice(ranges.sizes))
    if rng.random() < ranges.sinc:
        cutoff = SINC_CUTOFF if size < SINC_LARGE else SINC_CUTOFF_LARGE
        return Kernel("sinc", size, cutoff=rng.uniform(*cutoff))
    weights = np.array([ranges.gaussian, ranges.generalised, ranges.plateau]).ravel()
    chosen = int(rng.choice(len(weights), p=weights / weights.sum()))
    family, isotropic = _FAMILIES[chosen // 2], _ISOTROPIC[chosen % 2]
    sigma = rng.uniform(*ranges.sigma)
    sigmas = (sigma, sigma if isotropic else rng.uniform(*ranges.sigma))
    angle = None if isotropic else rng.uniform(-math.pi, math.pi)
    beta = None
    if family != "gaussian":
        halves = ranges.generalised_beta if family == "generalised" else ranges.plateau_beta
        beta = rng.uniform(*halves[rng.integers(2)])
    return Kernel(family, size, sigmas, angle, beta)


def _factor(ranges: ResizeRanges | None, rng: np.random.Generator) -> float:
    if ranges is None:
        return 1.0
    choice = rng.choice(3, p=(ranges.up, ranges.down, ranges.keep))
    if choice == 0:
        return rng.uniform(1, ranges.largest)
    return rng.uniform(ranges.smallest, 1) if choice == 1 else 1.0


def _mode(preset: Preset, rng: np.random.Generator) -> str:
    return preset.modes[rng.integers(len(preset.modes))]


def _resize_to(
    size: tuple[int, int], current: tuple[int, int], preset: Preset, rng: np.random.Generator
) -> list[Step]:
    """The step, or none where the size is right already (there every mode returns its input)."""
    mode = _mode(preset, rng)
    return [] if size == current else [Resize(mode, size, antialias=preset.antialias)]


def _noise(ranges: NoiseRanges | None, rng: np.random.Generator) -> list[Step]:
    if ranges is None:
        return []
    kind, strengths = "gaussian", ranges.gaussian
    if rng.random() >= ranges.gaussian_share:
        kind, strengths = "poisson", ranges.poisson
    strength, grey = rng.uniform(*strengths), bool(rng.random() < ranges.grey)
    return [Noise(kind, strength, grey, seed=int(rng.integers(2**32)))]


def _jpeg(order: Order, rng: np.random.Generator) -> list[Step]:
    if order.jpeg is None:
        return []
    return [Jpeg(int(rng.integers(order.jpeg[0], order.jpeg[1] + 1)))]
