"""A degradation as data: which steps, in which order, with which numbers. Nothing here is random any more.

`Degradation.steps` is all that happens to one picture; `describe` puts it in words, `as_dict` in JSON's types.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from . import kernels
from .noise import Covariance


@dataclass(frozen=True)
class Kernel:
    """A blur kernel. family: gaussian, generalised, plateau, sinc; what a family does not use stays None."""

    family: str
    size: int  # taps a side, odd
    sigmas: tuple[float, float] | None = None  # px, along the kernel's own axes
    angle: float | None = None  # radians; None: isotropic
    beta: float | None = None  # exponent of generalised and plateau
    cutoff: float | None = None  # of sinc, radians a pixel
    shift: float = 0.0  # px to the right and down

    def weights(self) -> np.ndarray:
        """float64 (size, size), sum 1."""
        weights = self._centred()
        return kernels.shifted(weights, self.shift) if self.shift else weights

    def _centred(self) -> np.ndarray:
        size, sigmas, angle, beta = self.size, self.sigmas, self.angle or 0.0, self.beta
        if self.family == "sinc" and self.cutoff is not None:
            return kernels.sinc(size, self.cutoff)
        if self.family == "gaussian" and sigmas is not None:
            return kernels.gaussian(size, sigmas, angle)
        if self.family == "generalised" and sigmas is not None and beta is not None:
            return kernels.generalised(size, sigmas, angle, beta)
        if self.family == "plateau" and sigmas is not None and beta is not None:
            return kernels.plateau(size, sigmas, angle, beta)
        raise TypeError(f"{self!r} lacks a number that its family needs.")

    def describe(self) -> str:
        """For example "Gaussian blur, 13 px, sigma 1.42 x 0.61 at 35 degrees"."""
        if self.cutoff is not None:
            return f"sinc filter, {self.size} px, cutoff {self.cutoff / math.pi:.2f} pi"
        name = "Gaussian" if self.family == "gaussian" else self.family
        shape = "" if self.beta is None else f", beta {self.beta:.2f}"
        sigmas = [f"{sigma:.2f}" for sigma in self.sigmas or ()]
        if self.angle is None:
            return f"{name} blur, {self.size} px, sigma {sigmas[0]}{shape}"
        turned = f"{' x '.join(sigmas)} at {math.degrees(self.angle):.0f} degrees"
        return f"{name} blur, {self.size} px, sigma {turned}{shape}"


@dataclass(frozen=True)
class Blur:
    """Correlate with a kernel."""

    kernel: Kernel

    def describe(self) -> str:
        """The kernel's words."""
        return self.kernel.describe()


@dataclass(frozen=True)
class Resize:
    """Resample to `size` = (width, height). mode: area, bilinear, bicubic.

    factor: given where the size follows from it; it then also sets the sampling grid. clip: to [0, 1] after it.
    """

    mode: str
    size: tuple[int, int]
    factor: float | None = None
    antialias: bool = False
    clip: bool = False

    def describe(self) -> str:
        """For example "bicubic to 128x128"."""
        return f"{self.mode} to {self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Pick:
    """Every `stride`-th pixel of every `stride`-th row, from the first; `size` = (width, height) is what is left."""

    stride: int
    size: tuple[int, int]

    def describe(self) -> str:
        """For example "every 4th pixel, to 128x128"."""
        ending = {2: "nd", 3: "rd"}.get(self.stride, "th")
        return f"every {self.stride}{ending} pixel, to {self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Noise:
    """Add noise.

    kind: gaussian (strength = standard deviation, of 255 levels), poisson (strength = factor), photon (strength =
    photons at white) or speckle (strength = standard deviation at white, of 255 levels).
    """

    kind: str
    strength: float
    grey: bool  # the same in all channels
    seed: int
    # of gaussian and speckle: between the channels, levels squared, instead of `strength` and `grey`
    covariance: Covariance | None = None

    def describe(self) -> str:
        """For example "colour Gaussian noise, 12.3/255"."""
        colour = "correlated" if self.covariance else "grey" if self.grey else "colour"
        match self.kind:
            case "gaussian":
                return f"{colour} Gaussian noise, {self.strength:.1f}/255"
            case "speckle":
                return f"{colour} speckle noise, {self.strength:.1f}/255"
            case "photon":
                return f"{colour} Poisson noise of {self.strength:.0f} photons"
        return f"{colour} Poisson noise, x{self.strength:.2f}"


@dataclass(frozen=True)
class Jpeg:
    """Compress and decompress: by libjpeg, or by DiffJPEG, which has fractional qualities."""

    quality: float
    differentiable: bool = False

    def describe(self) -> str:
        """For example "JPEG 57", "DiffJPEG 57.3"."""
        return f"DiffJPEG {self.quality:.1f}" if self.differentiable else f"JPEG {self.quality}"


@dataclass(frozen=True)
class Sharpen:
    """Real-ESRGAN's unsharp mask, `sharpen`; only ever the first step, of the good picture."""

    def describe(self) -> str:
        """ "sharpened"."""
        return "sharpened"


Step = Blur | Resize | Pick | Noise | Jpeg | Sharpen


@dataclass(frozen=True)
class Degradation:
    """All that is done to one picture of size `source` = (width, height).

    target: (width, height) of the low-quality picture. After the steps it is rounded to 8 bits; then `back` enlarges it
    to its old size, or, where that was not wanted, is None. round_last: it is rounded after `back`, not before it.
    """

    preset: str
    source: tuple[int, int]
    target: tuple[int, int]
    steps: tuple[Step, ...]
    back: Resize | None = None
    round_last: bool = False

    def small(self) -> Degradation:
        """The same without the way back: it ends at the target size."""
        sizes = [self.source, *(step.size for step in self.steps if isinstance(step, Resize | Pick))]
        if self.back is None or sizes[-1] == self.target:
            return replace(self, back=None)
        # where a recipe has no target size of its own
        last = Resize(self.back.mode, self.target, antialias=True)
        return replace(self, steps=(*self.steps, last), back=None)

    def describe(self) -> str:
        """One sentence without a line break."""
        done = "; ".join(step.describe() for step in self.steps) or "nothing"
        back = f"; back by {self.back.describe()}" if self.back else ""
        return f"{self.preset}, {self.source[0]}x{self.source[1]}: {done}{back}."

    def as_dict(self) -> dict[str, Any]:
        """The same in types that JSON has; each step says what it is under "step"."""
        steps = [{"step": type(step).__name__.lower(), **asdict(step)} for step in self.steps]
        return {**asdict(self), "steps": steps}
