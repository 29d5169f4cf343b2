"""Fidelity: one slider between the input and invented detail, as strengths of the UNet, the VAE and the step.

The path was chosen by measuring strengths of UNet, VAE and step against each other (docs/fidelity.md). Less of the
UNet's LoRA alone is worse in PSNR and in perceptual distance at once, as the base is no restorer in one step, so on the
way to the input it is the step that is taken less, and the VAE's LoRA that goes last.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import OptionError

_MOST_DETAIL = 1.25  # strength of the UNet's LoRA at fidelity -1


class Strengths(NamedTuple):
    """unet, vae: strengths of the LoRA. step: how much of the one step is taken, z_L + step (z_H - z_L)."""

    unet: float
    vae: float
    step: float


def strengths(fidelity: float) -> Strengths:
    """-1: more detail than trained for; 0: as trained; 1: nothing but the input, encoded and decoded by the base.

    Raises OptionError outside [-1, 1].
    """
    if not -1 <= fidelity <= 1:
        raise OptionError(
            f"The fidelity {fidelity:g} is not between -1 (detail) and 1 (the input); 0 is as trained."
        )
    if fidelity < 0:
        return Strengths(1 - fidelity * (_MOST_DETAIL - 1), 1.0, 1.0)
    return Strengths(1.0, 1 - fidelity**2, 1 - fidelity)
