"""Degrading in a batch: the work on one picture, from the bytes of a file to those of a bad one, with its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..choices import JPEG_QUALITY
from ..interrupts import held
from .job import Task
from .record import Result, may_fail

if TYPE_CHECKING:
    from ..degrade import Degradation
    from ..images import Picture
    from ..ports import Progress

logger = logging.getLogger(__name__)

Seen = Callable[["Picture", "Picture", str], None]  # HQ picture, LQ picture, what was done


@dataclass
class DegradeResult(Result):
    """degradation: all that was done, with every number."""

    degradation: dict[str, Any] | None = None


@dataclass(frozen=True)
class DegradeSettings:
    """What decides, beside the picture and its number, what comes out; the options of `osediff degrade`."""

    preset: str = "realesrgan"
    scale: float = 4.0
    seed: int = 0
    resize_back: bool = False
    official: bool | None = None
    jpeg_quality: int | None = None
    keep_metadata: bool = False
    device: str = "cpu"

    def open(self) -> Degrading:
        """There is nothing to load."""
        return Degrading(self)


class Degrading:
    """The settings for all pictures. seen: is shown what was made of what."""

    kind = DegradeResult
    done = "degraded"
    writes = True

    def __init__(self, settings: DegradeSettings, seen: Seen | None = None) -> None:
        self.settings, self.seen = settings, seen

    def load(self) -> None:
        """Nothing."""

    def work(
        self,
        task: Task,
        result: DegradeResult,
        step: Progress | None = None,
        *,
        dry_run: bool = False,
        debug: bool = False,
    ) -> None:
        """Degrades one picture, or says in `result` why not; with dry_run, what would come of it."""
        from ..images import check_format, decode_image, encode_image

        start, one = time.perf_counter(), self.settings
        with may_fail(result, self.done, debug):
            picture = decode_image(task.read(), task.name)
            result.input_size, result.notes = list(picture.size), list(picture.notes)
            check_format(task.output, alpha=picture.alpha is not None)
            if picture.bits == 16:
                result.notes.append("its 16 bits per channel become 8, as degraded pictures have no more")
            if dry_run:
                result.status, result.output_size = "planned", self._size(picture)
                return
            lq, degradation = self._degraded(picture, task.number - 1)
            for note in result.notes:
                logger.warning("%s: %s", result.input, note)
            check_format(task.output, lq.size, lq.alpha is not None)
            quality = one.jpeg_quality or JPEG_QUALITY
            data = encode_image(task.output.suffix, lq, quality=quality, metadata=one.keep_metadata)
            with held():
                task.write(data)
                result.status, result.output_size = self.done, list(lq.size)
                result.degradation = degradation.as_dict()
                result.seconds = round(time.perf_counter() - start, 3)
            logger.info("%s -> %s (%s)", result.input, result.output, degradation.describe())
            if self.seen is not None:
                self.seen(picture, lq, f"{PurePath(task.name).name}: {degradation.describe()}")

    def _size(self, picture: Picture) -> list[int]:
        from ..geometry import target_size

        one = self.settings
        return list(picture.size if one.resize_back else target_size(*picture.size, scale=1 / one.scale))

    def _degraded(self, picture: Picture, index: int) -> tuple[Picture, Degradation]:
        """Alpha is only resized, and what it hides does not bleed into the blur."""
        import torch

        from ..degrade import degrade
        from ..geometry import fill_transparent, resize_clipped

        one = self.settings
        rgb = torch.from_numpy(picture.rgb).permute(2, 0, 1)[None]
        alpha = None if picture.alpha is None else torch.from_numpy(picture.alpha)[None, None]
        if alpha is not None:
            rgb = fill_transparent(rgb, alpha)
        lq, (degradation,) = degrade(
            rgb, one.preset, one.scale, one.seed, one.resize_back, index, one.official
        )
        if alpha is not None:
            alpha = resize_clipped(alpha, (lq.shape[-1], lq.shape[-2]))[0, 0].numpy()
        result = replace(picture, rgb=lq[0].permute(1, 2, 0).contiguous().numpy(), alpha=alpha, bits=8)
        if picture.single_channel and not bool((lq[:, :1] == lq).all()):
            # noise or JPEG gave it colours, which neither one channel nor a grey profile describes
            result = replace(result, single_channel=False, icc=None)
        return result, degradation
