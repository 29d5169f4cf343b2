"""Real-ESRGAN's high-order degradation (arXiv 2107.10833, section 3): draw one picture's steps."""

from __future__ import annotations

import math

import numpy as np

from .operations import resized_length
from .parameters import Blur, Jpeg, Kernel, Noise, Resize, Step
from .preset import BlurRanges, NoiseRanges, Order, RealESRGAN, ResizeRanges, SincRanges

Size = tuple[int, int]
_ISOTROPIC, _FAMILIES = (True, False), ("gaussian", "generalised", "plateau")


def draw(
    recipe: RealESRGAN, size: Size, target: Size, official: bool, rng: np.random.Generator
) -> tuple[list[Step], Resize]:
    """The steps for a picture of `size` = (width, height) that is to have size `target`, and the way back.

    All orders but the last: blur, resize, noise, JPEG. The last one has the target size and, at the end, JPEG
    and the pair of (exact target size, sinc filter) in either order. official: DiffJPEG, and no antialias; with the
    same `rng` all else is the same. The way back is always drawn, so that the rest does not depend on whether it is
    wanted.
    """
    return _Draw(recipe, official, rng).all(size, target)


class _Draw:
    """The recipe and the random numbers, which every step needs."""

    def __init__(self, recipe: RealESRGAN, official: bool, rng: np.random.Generator) -> None:
        self.recipe, self.official, self.rng = recipe, official, rng
        self.fractions = rng.spawn(1)[0] if official else rng  # leaves `rng` as it is
        self.antialias = recipe.antialias and not official

    def all(self, size: Size, target: Size) -> tuple[list[Step], Resize]:
        steps: list[Step] = []
        current = size
        for order in self.recipe.orders[:-1]:
            steps += self._blur(order)
            factor = draw_factor(order.resize, self.rng)
            smaller = (resized_length(current[0], factor), resized_length(current[1], factor))
            resize = Resize(self._mode(), smaller, factor, self.antialias)
            if factor != 1:
                steps.append(resize)
                current = smaller
            steps += self._noise(order.noise) + self._jpeg(order)
        steps += self._last_order(current, target)
        return steps, Resize(one_of(self.recipe.back, self.rng), size)

    def _last_order(self, current: Size, target: Size) -> list[Step]:
        order = self.recipe.orders[-1]
        blur = self._blur(order)
        factor = draw_factor(order.resize, self.rng)
        near = (resized_length(target[0], factor), resized_length(target[1], factor))
        noise = self._noise(order.noise)
        jpeg = self._jpeg(order)
        exact = self._resize_to(target, near)
        sinc = self.recipe.final_sinc
        chance = self.rng.random()
        if sinc is not None and chance < sinc.probability:
            exact.append(Blur(_sinc(sinc, int(self.rng.choice(sinc.sizes)), self.rng)))
        ending = exact + jpeg if self.rng.random() < self.recipe.jpeg_last else jpeg + exact
        return blur + self._resize_to(near, current) + noise + ending

    def _blur(self, order: Order) -> list[Step]:
        if order.blur is None or self.rng.random() >= order.blur.probability:
            return []
        return [Blur(draw_kernel(order.blur, self.rng))]

    def _mode(self) -> str:
        return one_of(self.recipe.modes, self.rng)

    def _resize_to(self, size: Size, current: Size) -> list[Step]:
        """The step, or none where the size is right already (there every mode returns its input)."""
        mode = self._mode()
        return [] if size == current else [Resize(mode, size, antialias=self.antialias)]

    def _noise(self, ranges: NoiseRanges | None) -> list[Step]:
        if ranges is None:
            return []
        kind, strengths = "gaussian", ranges.gaussian
        if self.rng.random() >= ranges.gaussian_share:
            kind, strengths = "poisson", ranges.poisson
        strength, grey = self.rng.uniform(*strengths), bool(self.rng.random() < ranges.grey)
        return [Noise(kind, strength, grey, seed=int(self.rng.integers(2**32)))]

    def _jpeg(self, order: Order) -> list[Step]:
        if order.jpeg is None:
            return []
        quality = int(self.rng.integers(order.jpeg[0], order.jpeg[1] + 1))
        if self.official:
            return [Jpeg(self.fractions.uniform(*order.jpeg), differentiable=True)]
        return [Jpeg(quality)]


def draw_kernel(ranges: BlurRanges, rng: np.random.Generator) -> Kernel:
    """A sinc filter or one of the three families."""
    size = int(rng.choice(ranges.sizes))
    chance = rng.random()
    if ranges.sinc is not None and chance < ranges.sinc.probability:
        return _sinc(ranges.sinc, size, rng)
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


def _sinc(ranges: SincRanges, size: int, rng: np.random.Generator) -> Kernel:
    low, high = ranges.cutoff
    if ranges.cutoff_large is not None and size >= ranges.large:
        low, high = ranges.cutoff_large
    return Kernel("sinc", size, cutoff=rng.uniform(low * math.pi, high * math.pi))


def draw_factor(
    ranges: ResizeRanges | None, rng: np.random.Generator, smallest: float | None = None
) -> float:
    """Above, below or exactly 1. smallest: instead of that of `ranges`."""
    if ranges is None:
        return 1.0
    choice = rng.choice(3, p=(ranges.up, ranges.down, ranges.keep))
    if choice == 0:
        return rng.uniform(1, ranges.largest)
    return rng.uniform(smallest or ranges.smallest, 1) if choice == 1 else 1.0


def one_of(modes: tuple[str, ...], rng: np.random.Generator) -> str:
    """Each as likely."""
    return modes[rng.integers(len(modes))]
