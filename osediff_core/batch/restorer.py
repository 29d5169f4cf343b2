"""Restorer of a batch: the work on one picture, from the bytes of a file to those of another, with its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ..choices import JPEG_QUALITY
from ..interrupts import held
from .job import Task
from .record import Result, may_fail

if TYPE_CHECKING:
    from torch import Tensor

    from ..dape import Tagger
    from ..direct.restorer import DirectRestorer
    from ..generator import OneStepGenerator
    from ..images import Picture
    from ..pipeline import RestoreOptions
    from ..ports import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What decides, beside the picture, which bytes come out of it; the options of `osediff upscale` of these names.

    options: of each restoration, but for their colour fix: that is color_fix, None is the method's own. Plain values
    alone, so that other processes and JSON can have them.
    """

    options: RestoreOptions
    base: str = "tiny"
    weights: str | None = None
    method: str | None = None
    decoder: str | None = None
    strength: float | tuple[float, float] = 1.0
    fidelity: float = 0.0
    sliders: Mapping[str, float] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"
    compile: bool = False
    cache: str | None = None
    allow_download: bool = False
    revision: str | None = None
    color_fix: str | None = None
    dape: str | None = None
    ram: str | None = None
    exclude_tags: tuple[str, ...] = ()
    tag_offset: float = 0.0
    official_prompt: bool = False
    jpeg_quality: int | None = None
    keep_metadata: bool = False

    def open(self) -> Restorer:
        """Nothing is loaded yet."""
        return Restorer(self)


@dataclass
class UpscaleResult(Result):
    """prompt: what the restoration was told; with a tagger, tags and words."""

    prompt: str | None = None


class Restorer:
    """The tagger and the generator, loaded for the first picture that can be read, and the settings for all."""

    kind = UpscaleResult
    done = "restored"
    writes = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def tagger(self) -> Tagger | None:
        """What says what pictures show, if that was asked for."""
        one = self.settings
        if not (one.dape or one.ram):
            return None
        from ..dape.choice import open_tagger

        return open_tagger(one.dape, one.ram, dtype=one.dtype, device=one.device)

    @cached_property
    def generator(self) -> OneStepGenerator | DirectRestorer:
        """What restores."""
        from ..backends.speed import Speed
        from ..direct.load import load_model

        one = self.settings
        return load_model(
            one.base,
            one.weights,
            dtype=one.dtype,
            device=one.device,
            strength=one.strength,
            fidelity=one.fidelity,
            sliders=one.sliders,
            method=one.method,
            decoder=one.decoder,
            keep_base=False,  # the strength stays during a run: no need for the base's values
            allow_download=one.allow_download,
            revision=one.revision,
            speed=Speed(compile=one.compile),
            cache=one.cache,
        )

    def load(self) -> None:
        """Loads what is not loaded yet. Raises OSEDiffError: without a model no picture can be restored."""
        _ = self.tagger, self.generator

    def work(
        self,
        task: Task,
        result: UpscaleResult,
        step: Progress | None = None,
        *,
        dry_run: bool = False,
        debug: bool = False,
    ) -> None:
        """Restores one picture, or says in `result` why not; with dry_run, what would come of it.

        Raises what `load` does, and RunEnds where the others would fail as well.
        """
        start = time.perf_counter()
        with may_fail(result, self.done, debug):
            picture = self._read(task, result)
            if dry_run:
                result.status = "planned"
                result.output_size = list(self.settings.options.target_for(picture))
        if result.error:
            return
        for note in result.notes or ():
            logger.warning("%s: %s", result.input, note)
        if dry_run:
            return
        self.load()
        with may_fail(result, self.done, debug):
            restored = self._restore(picture, result, step)
            data = self._encode(task.output.suffix, restored)
            with held():
                task.write(data)
                result.status, result.output_size = self.done, list(restored.size)
                result.seconds = round(time.perf_counter() - start, 3)
            logger.info(
                "%s -> %s (%dx%d, %.1f s)", result.input, result.output, *restored.size, result.seconds
            )

    def _read(self, task: Task, result: UpscaleResult) -> Picture:
        """Raises ImageError, OptionError also for what could not be written in the end."""
        from ..images import check_format, decode_image

        picture = decode_image(task.read(), task.name)
        target = self.settings.options.target_for(picture)
        result.input_size = list(picture.size)
        file_format = check_format(task.output, target, picture.alpha is not None)
        result.notes = list(picture.notes)
        if picture.bits == 16 and file_format in ("JPEG", "WEBP"):
            result.notes.append(f"its 16 bits per channel become 8, as {file_format} has no more")
        return picture

    def _restore(self, picture: Picture, result: UpscaleResult, step: Progress | None) -> Picture:
        from ..pipeline import restore_picture

        fix = self.settings.color_fix or self.generator.method.color_fix
        result.prompt = self.settings.options.prompt
        tagger = self.tagger
        prompter = None if tagger is None else lambda lq: self._prompt(tagger, lq, result)
        return restore_picture(
            self.generator, picture, replace(self.settings.options, color_fix=fix), step, prompter
        )

    def _encode(self, suffix: str, picture: Picture) -> bytes:
        from ..images import encode_image

        one = self.settings
        quality = one.jpeg_quality or JPEG_QUALITY
        return encode_image(suffix, picture, quality=quality, metadata=one.keep_metadata)

    def _prompt(self, tagger: Tagger, lq: Tensor, result: UpscaleResult) -> str:
        from ..dape import fitting_prompt, prompt_of

        one = self.settings
        (tags,) = tagger.tag(lq, threshold_offset=one.tag_offset, exclude=one.exclude_tags)
        if one.official_prompt:
            result.prompt = prompt_of(tags, one.options.prompt, official=True)
        else:
            result.prompt = fitting_prompt(tags, one.options.prompt, self.generator.reads_whole)
        logger.info("%s: prompt: %s", result.input, result.prompt)
        return result.prompt
