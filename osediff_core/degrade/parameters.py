"""A degradation as data: which steps, in which order, with which numbers. Nothing here is random any more.

`Degradation.steps` is all that happens to one picture; `describe` puts it in words, `as_dict` in JSON's types.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import kernels


@dataclass(frozen=True)
class Kernel:
    """A blur kernel. family: gaussian, generalised, plateau, sinc; what a family does not use stays None."""

    family: str
    size: int  # taps a side, odd
    sigmas: tuple[float, float] | None = None  # px, along the kernel's own axes
    angle: float | None = None  # radians; None: isotropic
    beta: float | None = None  # exponent of generalised and plateau
    cutoff: float | None = None  # of sinc, radians a pixel

    def weights(self) -> np.ndarray:
        """float64 (size, size), sum 1."""
        if self.family == "sinc":
            return kernels.sinc(self.size, self.cutoff)
        if self.family == "gaussian":
            return kernels.gaussian(self.size, self.sigmas, self.angle or 0.0)
        make = {"generalised": kernels.generalised, "plateau": kernels.plateau}[self.family]
        return make(self.size, self.sigmas, self.angle or 0.0, self.beta)

    def describe(self) -> str:
        """For example "Gaussian blur, 13 px, sigma 1.42 x 0.61 at 35 degrees"."""
        if self.family == "sinc":
            return f"sinc filter, {self.size} px, cutoff {self.cutoff / math.pi:.2f} pi"
        name = "Gaussian" if self.family == "gaussian" else self.family
        shape = "" if self.beta is None else f", beta {self.beta:.2f}"
        if self.angle is None:
            return f"{name} blur, {self.size} px, sigma {self.sigmas[0]:.2f}{shape}"
        across = f"{self.sigmas[0]:.2f} x {self.sigmas[1]:.2f}"
        return f"{name} blur, {self.size} px, sigma {across} at {math.degrees(self.angle):.0f} degrees{shape}"


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

    factor: given where the size follows from it; it then also sets the sampling grid.
    """

    mode: str
    size: tuple[int, int]
    factor: float | None = None
    antialias: bool = False

    def describe(self) -> str:
        """For example "bicubic to 128x128"."""
        return f"{self.mode} to {self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Noise:
    """Add noise. kind: gaussian (strength = standard deviation, of 255 levels) or poisson (strength = factor)."""

    kind: str
    strength: float
    grey: bool  # the same in all channels
    seed: int

    def describe(self) -> str:
        """For example "colour Gaussian noise, 12.3/255"."""
        colour = "grey" if self.grey else "colour"
        if self.kind == "gaussian":
            return f"{colour} Gaussian noise, {self.strength:.1f}/255"
        return f"{colour} Poisson noise, x{self.strength:.2f}"


@dataclass(frozen=True)
class Jpeg:
    """Compress by libjpeg and decompress."""

    quality: int

    def describe(self) -> str:
        """For example "JPEG 57"."""
        return f"JPEG {self.quality}"


Step = Blur | Resize | Noise | Jpeg


@dataclass(frozen=True)
class Degradation:
    """All that is done to one picture of size `source` = (width, height).

    After the steps the low-quality picture is rounded to 8 bits; then `back` enlarges it to its old size, or,
    where that was not wanted, is None.
    """

    preset: str
    source: tuple[int, int]
    steps: tuple[Step, ...]
    back: Resize | None = None

    def describe(self) -> str:
        """One sentence without a line break."""
        done = "; ".join(step.describe() for step in self.steps) or "nothing"
        back = f"; back by {self.back.describe()}" if self.back else ""
        return f"{self.preset}, {self.source[0]}x{self.source[1]}: {done}{back}."

    def as_dict(self) -> dict[str, Any]:
        """The same in types that JSON has; each step says what it is under "step"."""
        steps = [{"step": type(step).__name__.lower(), **asdict(step)} for step in self.steps]
        return {**asdict(self), "steps": steps}
