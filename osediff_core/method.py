"""A one-step method as facts: what its weights alone do not say, and what differs from OSEDiff in using them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import OptionError
from .passes import ONE_PASS, Pass


class Slider(NamedTuple):
    """A number that the method lets a user choose. meaning: a noun phrase, of what it scales."""

    name: str
    meaning: str
    default: float = 1.0


class Guidance(NamedTuple):
    """Classifier-free guidance with a negative prompt that the method fixes."""

    scale: float
    negative: str


@dataclass(frozen=True)
class Method:
    """Facts of a one-step method; the defaults are OSEDiff's way.

    title: as its authors write it. base: of the published weights. prompt: the rule for prompts, for people.
    reads_words: whether one of the user's makes sense. default_prompt: where the user gives none.
    color_fix: the official default, a key of color.METHODS. licence, source: of the published weights.
    advice: what else a user should know, a sentence or "".
    sliders: with `passes`, which makes of a number for each of them the passes of the prediction. fidelity: the numbers
    of the sliders for the fidelity slider, where they are that already; None: strengths, as of OSEDiff.
    prepare: where the weights depend on the picture: of the weights, what makes of an image (1, 3, h, w) in [-1, 1],
    before it is enlarged, the UNet's LoRA sets and the VAE's.
    centred_tiles: whether the blending weights of tiles are centred on both axes; OSEDiff's are not (`tiles.grid`).
    """

    title: str = "a one-step method"
    base: str = "unknown"
    prompt: str = "what the picture shows, or empty"
    reads_words: bool = True
    default_prompt: str = ""
    color_fix: str = "adain"
    licence: str = "unknown"
    source: str = "unknown"
    advice: str = ""
    sliders: tuple[Slider, ...] = ()
    passes: Callable[..., tuple[Pass, ...]] = lambda: ONE_PASS
    fidelity: Callable[[float], Mapping[str, float]] | None = None
    prepare: Callable[[Any], Any] | None = None
    centred_tiles: bool = False

    def settle(self, chosen: Mapping[str, float]) -> dict[str, float]:
        """A number for each slider: the chosen ones, else their defaults. Raises OptionError for one it has not."""
        numbers = {slider.name: slider.default for slider in self.sliders}
        strange = [name for name in chosen if name not in numbers]
        if strange:
            has = f"it has {' and '.join(numbers)}" if numbers else "it has none"
            raise OptionError(f"{self.title} has no slider {' or '.join(strange)}; {has}.")
        return {**numbers, **chosen}

    @property
    def guidance(self) -> Guidance | None:
        """What its passes amount to, where one of them has a prompt of its own: e_neg + scale (e_pos - e_neg)."""
        passes = self.passes(**self.settle({}))
        return next((Guidance(1 - one.weight, one.prompt) for one in passes if one.prompt is not None), None)
