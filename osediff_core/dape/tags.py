"""RAM's list of tags: English and Chinese names, and the threshold of each.

The lists are recognize-anything's, Apache-2.0; see NOTICE.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import TAG_LANGUAGES
from ..errors import OptionError
from ..printable import quoted
from .config import TaggerConfig

_DATA = Path(__file__).parent / "data"


class Tag(NamedTuple):
    """index: in RAM's list of 4585. score: the sigmoid, 0 to 1."""

    name: str
    score: float
    index: int


@lru_cache
def tag_names(language: str = "en") -> tuple[str, ...]:
    """The 4585 names in the list's order. language: en or zh. Raises OptionError for another."""
    if language not in TAG_LANGUAGES:
        raise OptionError(f"Tags have no names in {language!r}; use {' or '.join(TAG_LANGUAGES)}.")
    lines = (_DATA / TAG_LANGUAGES[language]).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines)


@lru_cache
def tag_thresholds() -> tuple[float, ...]:
    """RAM's thresholds on the sigmoid, in the list's order; ten of them are 1, so that these tags never appear."""
    return tuple(map(float, (_DATA / "ram_tag_list_threshold.txt").read_text(encoding="utf-8").split()))


@dataclass(frozen=True)
class TagTable:
    """The tags of one tagger: their indices into the list, and their thresholds."""

    indices: tuple[int, ...]
    thresholds: tuple[float, ...]

    @classmethod
    def of(cls, config: TaggerConfig) -> TagTable:
        """As the configuration says."""
        indices = tuple(range(len(tag_names()))) if config.tags is None else config.tags
        thresholds = config.thresholds
        if thresholds is None:
            thresholds = tuple(tag_thresholds()[index] for index in indices)
        return cls(indices, thresholds)

    def above(self, scores: Tensor, offset: float = 0.0) -> list[list[tuple[int, float]]]:
        """scores (B, tags) -> for each picture, (index into RAM's list, score) of the tags that are in it.

        That is score > threshold + offset, strictly. A threshold of 1 switches its tag off, whatever the offset.
        """
        thresholds = torch.tensor(self.thresholds)
        limits = torch.where(thresholds < 1, thresholds + offset, torch.inf)
        return [
            [(self.indices[i], float(row[i])) for i in (row > limits).nonzero().flatten().tolist()]
            for row in scores
        ]


def check_names(names: Iterable[str]) -> None:
    """Raises OptionError for one that no tag has, in English or Chinese, with the nearest that there are."""
    known = {name.casefold(): name for language in TAG_LANGUAGES for name in tag_names(language)}
    for name in names:
        if name.strip().casefold() not in known:
            near = difflib.get_close_matches(name.strip().casefold(), known, 3, 0.7)
            hint = (
                f"did you mean {' or '.join(known[one] for one in near)}"
                if near
                else "see RAM's list of tags"
            )
            raise OptionError(f"There is no tag {quoted(name)}; {hint}?".replace("tags?", "tags."))


def excluded_indices(names: Iterable[str]) -> frozenset[int]:
    """The indices of tags called so in English or Chinese; case does not matter, unknown names exclude nothing."""
    wanted = {name.strip().casefold() for name in names}
    return frozenset(
        index
        for language in TAG_LANGUAGES
        for index, name in enumerate(tag_names(language))
        if name.casefold() in wanted
    )
