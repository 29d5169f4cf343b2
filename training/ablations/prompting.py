"""Prompts to restore with, of the kinds that the studies compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from osediff_core.dape import Tag, fitting_prompt
from osediff_core.dape.choice import TINY, open_tagger

from ..data.appearance import appearance_tags
from ..data.fixed_pairs import ValidationPair
from ..data.pictures import to_tensor

NONE, DAPE, RICH, WRONG, SHIPPED = "none", "dape", "rich", "wrong", "shipped"
# none: no text. dape: tags of the low-quality image by the embedded tagger with its LoRA, as the paper's inference.
# rich: tags of the good image by the tagger alone, and its measured colours and texture, which no user has: more than
# an extractor could give. wrong: the "dape" prompt of the next picture, which says what is not there. shipped: as dape,
# but by the weights that lie beside the base, which all trainings start from.
PROMPTINGS = (NONE, DAPE, RICH, WRONG, SHIPPED)


def prompts_of(
    prompting: str, pairs: Sequence[ValidationPair], fits: Callable[[str], bool]
) -> dict[str, str]:
    """Name of the picture -> prompt. fits: whether the text encoder takes all of a prompt."""
    if prompting == NONE:
        return {pair.name: "" for pair in pairs}
    if prompting == WRONG:
        right = list(prompts_of(DAPE, pairs, fits).values())
        return {pair.name: right[(place + 1) % len(right)] for place, pair in enumerate(pairs)}
    on_lq = prompting in (DAPE, SHIPPED)
    tagger = open_tagger(TINY if on_lq else None, None if on_lq else TINY, dtype="fp32", device="cpu")

    def prompt(pair: ValidationPair) -> str:
        image: np.ndarray = pair.lq if on_lq else pair.hq
        tags: list[Tag | str] = list(tagger.tag(to_tensor(image[None]))[0])
        return fitting_prompt(tags if on_lq else appearance_tags(image) + tags, "", fits)

    return {pair.name: prompt(pair) for pair in pairs}
