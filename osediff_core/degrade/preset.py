"""Presets: how bad is bad, as ranges that degradations are drawn from.

A `Range` is (low, high), drawn uniformly. The values are in presets/*.yaml, with their units and reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Rule:
    """A condition on a value: the words that follow "must be", and the test."""

    text: str
    holds: Callable[[Any], bool]


Probability = Annotated[float, Rule("a probability from 0 to 1", lambda p: 0 <= p <= 1)]
Range = Annotated[
    tuple[float, float], Rule("two numbers from 0, the lower one first", lambda r: 0 <= r[0] <= r[1])
]
Factors = Annotated[
    tuple[float, float], Rule("two numbers above 0, the lower one first", lambda r: 0 < r[0] <= r[1])
]
Levels = Annotated[
    tuple[int, int], Rule("two whole numbers from 0, the lower one first", lambda r: 0 <= r[0] <= r[1])
]
Quality = Annotated[
    tuple[int, int],
    Rule("two whole numbers from 1 to 100, the lower one first", lambda r: 1 <= r[0] <= r[1] <= 100),
]
Weights = Annotated[tuple[float, float], Rule("two numbers from 0", lambda w: min(w) >= 0)]
Taps = Annotated[
    tuple[int, ...],
    Rule("odd sizes from 1", lambda sizes: bool(sizes) and all(s > 0 and s % 2 for s in sizes)),
]
Modes = Annotated[
    tuple[str, ...],
    Rule(f"some of {', '.join(MODES)}", lambda modes: bool(modes) and set(modes) <= set(MODES)),
]
Positive = Annotated[float, Rule("above 0", lambda value: value > 0)]


def _sums_to_one(*shares: float) -> bool:
    return abs(sum(shares) - 1) < 1e-6


@dataclass(frozen=True)
class SincRanges:
    """A sinc filter that rings as after careless resampling. Cutoffs are in pi radians a pixel."""

    probability: Probability
    sizes: Taps
    cutoff: Factors
    # of kernels of `large` taps and more, which may blur more
    cutoff_large: Factors | None = None
    large: int = 13


@dataclass(frozen=True)
class BlurRanges:
    """A kernel: a sinc filter by its probability, else a family by its weights (isotropic, anisotropic)."""

    sigma: Factors  # px, along each axis
    sizes: Taps  # of all kernels but the sinc's
    probability: Probability = 1.0  # of blurring at all
    sinc: SincRanges | None = None
    gaussian: Weights = (0.6, 0.4)
    generalised: Weights = (0.0, 0.0)
    plateau: Weights = (0.0, 0.0)
    # exponents: one range or the other, evenly
    generalised_beta: tuple[Factors, Factors] = ((0.5, 1.0), (1.0, 4.0))
    plateau_beta: tuple[Factors, Factors] = ((1.0, 1.0), (1.0, 2.0))


@dataclass(frozen=True)
class ResizeRanges:
    """Enlarge, shrink, or neither, with these probabilities; factors. The last order's refer to the target size."""

    up: Probability
    down: Probability
    keep: Probability
    largest: Positive
    smallest: Positive


Resizing = Annotated[
    ResizeRanges,
    Rule("such that up, down and keep add up to 1", lambda r: _sums_to_one(r.up, r.down, r.keep)),
]
Blurring = Annotated[
    BlurRanges,
    Rule(
        "such that gaussian, generalised and plateau are not all 0",
        lambda b: sum((*b.gaussian, *b.generalised, *b.plateau)) > 0,
    ),
]


@dataclass(frozen=True)
class NoiseRanges:
    """Gaussian or Poisson noise, in one field for all channels with probability `grey`."""

    gaussian: Range  # standard deviation, of 255 levels
    poisson: Range = (0.0, 0.0)  # factor
    gaussian_share: Probability = 1.0
    grey: Probability = 0.4


@dataclass(frozen=True)
class Order:
    """One round of blur, resize, noise and JPEG; what is None is left out."""

    blur: Blurring | None = None
    resize: Resizing | None = None
    noise: NoiseRanges | None = None
    jpeg: Quality | None = None  # both ends included


@dataclass(frozen=True)
class RealESRGAN:
    """One or more orders. The last one brings the picture to its target size and may end in a sinc filter."""

    orders: Annotated[tuple[Order, ...], Rule("at least one order", bool)]
    final_sinc: SincRanges | None = None
    jpeg_last: Probability = 1.0  # that the last JPEG comes after the target size, not before it
    modes: Modes = MODES
    antialias: bool = True  # of bilinear and bicubic; Real-ESRGAN's own has none
    back: Modes = ("bicubic",)  # enlarge to the old size


@dataclass(frozen=True)
class CodeFormer:
    """Blur, shrink, Gaussian noise, JPEG; then at once back to the old size."""

    blur: Blurring
    shrink: Factors
    noise: Range  # standard deviation, of 255 levels
    jpeg: Quality  # the upper end excluded


@dataclass(frozen=True)
class BSRGANBlur:
    """A Gaussian, isotropic or not. Widths grow with the scale."""

    sizes: Taps
    isotropic: Probability
    width: Weights  # of isotropic ones: sigma up to width[0] + width[1] * scale, px
    variance: Weights  # of the others, along each axis: up to variance[0] + variance[1] * scale, px^2


@dataclass(frozen=True)
class BSRGANNoise:
    """Gaussian noise, or speckle where it is multiplied by the picture: colour, grey or correlated by weights."""

    levels: Levels  # standard deviation, of 255 levels; correlated noise always has the highest
    colour: Probability
    grey: Probability
    correlated: Probability


BSRGANNoises = Annotated[
    BSRGANNoise,
    Rule(
        "such that colour, grey and correlated add up to 1",
        lambda n: _sums_to_one(n.colour, n.grey, n.correlated),
    ),
]


@dataclass(frozen=True)
class BSRGAN:
    """Two blurs, two shrinkings, noise and JPEG in random order, then JPEG."""

    blur: BSRGANBlur
    noise: BSRGANNoises
    jpeg: Quality
    halve: Probability  # halve the picture first, at scales from 4
    halve_antialiased: Probability
    jpeg_inside: Probability
    shrink_by_resize: Probability  # else by a shifted Gaussian and picking pixels
    shrink_largest: Positive  # factor U(1, shrink_largest * scale)
    pick_sigma: Factors  # px: lower end, and upper end per scale
    pick_taps: Taps
    modes: Modes = MODES
    back: Modes = ("bicubic",)


@dataclass(frozen=True)
class BSRGANPlus:
    """Two rounds of blur, resize and noises with a JPEG between them, in random order or not, then JPEG."""

    blur: BSRGANBlur
    noise: BSRGANNoises
    jpeg: Quality
    photons: Range  # exponents of 10: photons at white
    photons_grey: Probability
    photons_probability: Probability
    speckle_probability: Probability
    resize: Resizing  # smallest is divided by the scale
    first_scale: Positive  # by which the first round's `smallest` is divided, whatever the scale
    shuffle: Probability
    modes: Modes = MODES
    back: Modes = ("bicubic",)


Recipe = RealESRGAN | CodeFormer | BSRGAN | BSRGANPlus
METHODS: dict[str, type[Recipe]] = {
    "realesrgan": RealESRGAN,
    "codeformer": CodeFormer,
    "bsrgan": BSRGAN,
    "bsrgan_plus": BSRGANPlus,
}


@dataclass(frozen=True)
class Preset:
    """A recipe with its values.

    official: draw and compress as the code that OSEDiff was trained with, see docs/degradations.md; matters to
    RealESRGAN recipes only. sharpen_hq: the good picture is sharpened first (`sharpen`), as is the target of training.
    """

    summary: str
    recipe: Recipe
    official: bool = False
    sharpen_hq: bool = False
