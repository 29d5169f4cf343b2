"""Passes through the UNet that a method's prediction is made of: mostly one, sometimes a sum of several."""

from __future__ import annotations

from typing import NamedTuple


class Pass(NamedTuple):
    """One pass: the prediction is the sum of weight times output over the passes.

    sets: names of the UNet's LoRA sets that act in it; None: all of them. prompt: one that the method fixes; None: that
    of the picture.
    """

    weight: float = 1.0
    sets: tuple[str, ...] | None = None
    prompt: str | None = None


ONE_PASS = (Pass(),)
