"""A picture becomes a pair: crop, mirror, degrade. All that is random follows from (seed, n)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from osediff_core.degrade import degrade_pair
from osediff_core.errors import first_line

from .captions import Captions
from .config import DataConfig
from .errors import DataError
from .pictures import decode
from .sampler import Ticket
from .sources import Source

_ATTEMPTS = 64  # pictures of one source that may be broken in a row
_CROP, _REPLACE = 0, 1  # what a generator is for


@dataclass
class Sample:
    """One pair, both (3, R, R) in [-1, 1]; prompt is None where the tagger will say. skipped: (name, reason)."""

    n: int
    lq: Tensor
    hq: Tensor
    prompt: str | None
    name: str
    enlarged: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Pairs(torch.utils.data.Dataset):
    """Tickets to samples, in a worker."""

    def __init__(
        self, config: DataConfig, sources: Sequence[Source | None], captions: Captions, seed: int
    ) -> None:
        self.config, self.sources, self.captions, self.seed = config, sources, captions, seed

    def __getitems__(self, tickets: list[Ticket]) -> list[Sample] | DataError:
        """A batch, or why there is none: an exception raised in a worker would come out with the worker's traceback."""
        try:
            return self._batch(tickets)
        except DataError as error:
            return error

    def _batch(self, tickets: list[Ticket]) -> list[Sample]:
        """A broken picture of a stream gives its place to the batch's first sound one."""
        made = [self._make(ticket) for ticket in tickets]
        sound = next(
            (ticket for ticket, sample in zip(tickets, made, strict=True) if isinstance(sample, Sample)), None
        )
        if sound is None:
            raise DataError(f"No picture of a whole batch can be read ({made[0]}); check data.sources.")
        samples = []
        for ticket, sample in zip(tickets, made, strict=True):
            if not isinstance(sample, Sample):
                reason = sample
                sample = self._make(Ticket(ticket.n, sound.source, sound.index, sound.streamed))
                sample.skipped.append((ticket.streamed[0], reason))
            samples.append(sample)
        return samples

    def _make(self, ticket: Ticket) -> Sample | str:
        """The sample, or why the stream's picture cannot be used. Raises DataError for a source of broken ones."""
        if ticket.streamed is not None:
            name, data, caption = ticket.streamed
            image, reason = self._usable(data)
            return self._pair(ticket.n, name, image, caption, []) if image else reason
        source, skipped, index = self.sources[ticket.source], [], ticket.index
        rng = _rng(self.seed, ticket.n, _REPLACE)
        for _ in range(_ATTEMPTS):
            name = source.name(index)
            try:
                image, reason = self._usable(source.read(index))
            except OSError as error:
                image, reason = None, error.strerror or first_line(error)
            if image:
                return self._pair(ticket.n, name, image, source.caption(index), skipped)
            skipped.append((name, reason))
            index = int(rng.integers(len(source)))
        raise DataError(
            f"{_ATTEMPTS} pictures in a row cannot be used, the last one {name} ({reason}); check data.sources and "
            "data.small."
        )

    def _usable(self, data: bytes) -> tuple[Image.Image | None, str]:
        try:
            image = decode(data)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged data
            return None, f"broken: {first_line(error)}"
        if min(image.size) < self.config.resolution and self.config.small == "skip":
            return None, f"{image.width}x{image.height} is smaller than {self.config.resolution}"
        return image, ""

    def _pair(
        self, n: int, name: str, image: Image.Image, caption: str | None, skipped: list[tuple[str, str]]
    ) -> Sample:
        config, rng = self.config, _rng(self.seed, n, _CROP)
        side = config.resolution
        enlarged = min(image.size) < side
        if enlarged:
            factor = side / min(image.size)
            size = tuple(max(side, round(length * factor)) for length in image.size)
            image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (int(rng.integers(length - side + 1)) for length in image.size)
        crop = np.asarray(image.crop((left, top, left + side, top + side)))
        if rng.random() < 0.5 and config.flip:
            crop = crop[:, ::-1]
        dropped = rng.random() < config.prompt_dropout
        hq = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float()[None] / 255
        lq, hq, _ = degrade_pair(
            hq, config.degradation, config.scale, self.seed, n, config.degradation_official
        )
        prompt = "" if dropped else self.captions.prompt(name, caption)
        return Sample(n, lq[0] * 2 - 1, hq[0] * 2 - 1, prompt, name, enlarged, skipped)


def _rng(seed: int, n: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(n, purpose)))
