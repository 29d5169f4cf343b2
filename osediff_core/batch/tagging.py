"""Tagging in a batch: the work on one picture, from the bytes of a file to tags, with its record."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .job import Task
from .record import Result, may_fail

if TYPE_CHECKING:
    from ..dape import Tagger
    from ..ports import Progress

logger = logging.getLogger(__name__)


@dataclass
class TagResult(Result):
    """tags: each with name, score and index into RAM's list. prompt: as `osediff upscale` would make it."""

    tags: list[dict[str, Any]] | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class TagSettings:
    """What decides, beside the picture, which tags come out; the options of `osediff tag` of these names."""

    dape: str | None = None
    ram: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    exclude_tags: tuple[str, ...] = ()
    tag_offset: float = 0.0
    official_prompt: bool = False
    language: str = "en"

    def open(self) -> Tagging:
        """Nothing is loaded yet."""
        return Tagging(self)


class Tagging:
    """The tagger, and the settings for all pictures."""

    kind = TagResult
    done = "tagged"
    writes = False

    def __init__(self, settings: TagSettings) -> None:
        self.settings = settings

    @cached_property
    def tagger(self) -> Tagger:
        """What says what pictures show."""
        from ..dape.choice import open_tagger

        one = self.settings
        return open_tagger(one.dape, one.ram, dtype=one.dtype, device=one.device)

    def load(self) -> None:
        """Raises OSEDiffError: without a tagger no picture can be tagged."""
        _ = self.tagger

    def work(
        self,
        task: Task,
        result: TagResult,
        step: Progress | None = None,
        *,
        dry_run: bool = False,
        debug: bool = False,
    ) -> None:
        """Tags one picture, or says in `result` why not."""
        from ..dape import prompt_of
        from ..images import decode_image

        start, one = time.perf_counter(), self.settings
        self.load()
        with may_fail(result, self.done, debug):
            picture = decode_image(task.read(), task.name)
            result.input_size, result.notes = list(picture.size), list(picture.notes)
            (tags,) = self.tagger.tag(
                [picture.planes()],
                threshold_offset=one.tag_offset,
                exclude=one.exclude_tags,
                language=one.language,
            )
            result.tags = [tag._asdict() for tag in tags]
            result.prompt = prompt_of(tags, official=one.official_prompt)
            result.status = self.done
            result.seconds = round(time.perf_counter() - start, 3)
            for note in result.notes:
                logger.warning("%s: %s", result.input, note)
