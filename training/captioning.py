"""Captioning on Ray: actors that open the sources and hold a tagger, and are told numbers of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osediff_core.batch.job import Job, Task
from osediff_core.batch.record import Result, may_fail
from osediff_core.cluster.run import Cluster, run_on_ray
from osediff_core.ports import Progress

from .data.captions import Tagger, find_tagger
from .data.config import SourceConfig
from .data.pictures import decode, to_tensor
from .data.sources import Source, open_source

Mine = Callable[[int, str], bool]  # place in its source, name
Tell = Callable[[str, str | None, str | None], None]  # name, caption, why there is none
Elsewhere = Callable[[Sequence[Source], Mine, Tell], None]


@dataclass(frozen=True)
class CaptionRecipe:
    """Sources, as every machine finds them, and a tagger, as `--tagger` names it."""

    sources: tuple[SourceConfig, ...]
    tagger: str
    device: str = "auto"

    def open(self) -> Captioning:
        """Nothing is opened yet."""
        return Captioning(self)


@dataclass
class CaptionResult(Result):
    """caption: what the picture shows."""

    caption: str | None = None


class Captioning:
    """The work on one picture, whose number says which of which source it is."""

    kind = CaptionResult
    done = "captioned"
    writes = False

    def __init__(self, recipe: CaptionRecipe) -> None:
        self.recipe = recipe
        self.sources: list[Source] = []
        self.tagger: Tagger | None = None

    def load(self) -> None:
        """Raises DataError for a source that is not there, what `find_tagger` does."""
        if self.tagger is None:
            self.sources = [open_source(one) for one in self.recipe.sources]
            self.tagger = find_tagger(self.recipe.tagger, self.recipe.device)

    def work(
        self,
        task: Task,
        result: CaptionResult,
        step: Progress | None = None,
        *,
        dry_run: bool = False,
        debug: bool = False,
    ) -> None:
        """Captions one picture, or says in `result` why not."""
        self.load()
        with may_fail(result, self.done, debug):
            index, source = task.number - 1, 0
            while index >= len(self.sources[source]):
                index -= len(self.sources[source])
                source += 1
            pixels = np.asarray(decode(self.sources[source].read(index)))
            tagger: Any = self.tagger
            result.caption = tagger(to_tensor(pixels[None]))[0]
            result.status = self.done


def caption_on_ray(
    recipe: CaptionRecipe,
    address: str | None,
    actors: tuple[int, int] | None,
    sources: Sequence[Source],
    mine: Mine,
    tell: Tell,
) -> None:
    """Captions those pictures of the sources, by number and name, that are `mine`. Raises what `run_on_ray` does."""
    jobs, names, number = [], [], 0
    for source in sources:
        for index in range(len(source)):
            number += 1
            name = source.name(index)
            if mine(index, name):
                jobs.append(Job(Path(name), Path(name), number))
                names.append(name)

    def told(index: int, results: Sequence[Any], _node: str, _attempt: int) -> None:
        for result in results:
            tell(names[index], getattr(result, "caption", None), result.error)

    run_on_ray(Cluster(address, actors), recipe, jobs, told)
