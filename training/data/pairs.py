"""A picture becomes a pair: crop, mirror, degrade. All that is random follows from (seed, n)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from osediff_core.degrade import degrade_pair
from osediff_core.errors import OSEDiffError, first_line
from osediff_core.images import find_pictures, left_out_words

from .captions import Captions
from .config import DataConfig
from .errors import DataError
from .pictures import BrokenPicture, decode
from .sampler import Purpose, Row, Ticket, generator
from .sources import Source

log = logging.getLogger(__name__)

ATTEMPTS = 64  # pictures of one source that may be unusable in a row


@dataclass
class Sample:
    """One pair, both (3, R, R) in [-1, 1]; prompt is None where the tagger will say. target: a teacher's, as hq."""

    lq: Tensor
    hq: Tensor
    prompt: str | None
    name: str
    target: Tensor | None = None


@dataclass
class Made:
    """A batch from a worker: lq, hq (B, 3, R, R). What `holes` lists had a stream's picture that cannot be used.

    small: names of pictures that were enlarged. skipped: (name, reason) of those that were left out. target: as hq,
    where a sample has one, else hq itself.
    """

    lq: Tensor
    hq: Tensor
    prompts: list[str | None]
    names: list[str]
    holes: list[int] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    target: Tensor | None = None

    def pin_memory(self) -> Made:
        """The same in memory that a GPU fetches by itself; the loader calls it."""
        target = None if self.target is None else self.target.pin_memory()
        return replace(self, lq=self.lq.pin_memory(), hq=self.hq.pin_memory(), target=target)

    def put(self, place: int, sample: Sample) -> None:
        """Set one sample of the batch."""
        self.lq[place], self.hq[place] = sample.lq, sample.hq
        self.prompts[place], self.names[place] = sample.prompt, sample.name
        if self.target is not None:
            self.target[place] = sample.hq if sample.target is None else sample.target


# name, how to read it, its caption
Candidate = tuple[str, Callable[[], bytes], Callable[[], str | None]]


class Pairs(torch.utils.data.Dataset):
    """Tickets to samples, in a worker."""

    def __init__(
        self, config: DataConfig, sources: Sequence[Source | None], captions: Captions, seed: int
    ) -> None:
        self.config, self.sources, self.captions, self.seed = config, sources, captions, seed
        folders = enumerate(source.targets for source in config.sources)
        self.targets = {number: Targets(Path(folder)) for number, folder in folders if folder}

    def __getitems__(self, tickets: list[Ticket]) -> Made | OSEDiffError:
        """A batch, or why there is none: an exception raised in a worker would come out with the worker's traceback."""
        side = self.config.resolution
        shape = (len(tickets), 3, side, side)
        made = Made(torch.zeros(shape), torch.zeros(shape), [""] * len(tickets), [""] * len(tickets))
        if self.targets:
            made.target = torch.zeros(shape)
        try:
            with _one_thread():
                for place, ticket in enumerate(tickets):
                    before = len(made.skipped)
                    sample = self._first_usable(ticket, self._candidates(ticket), made)
                    if sample is not None:
                        made.put(place, sample)
                    elif ticket.row is not None:
                        made.holes.append(place)
                    else:
                        raise _hopeless(made.skipped[before:])
        except OSEDiffError as error:
            return error
        return made

    def fill(self, made: Made, tickets: Sequence[Ticket], windows: Sequence[list[Row]]) -> None:
        """Give each hole another picture of its window, the same one at every try. Raises DataError."""
        for place in made.holes:
            ticket, window = tickets[place], windows[place]
            order = generator(self.seed, Purpose.REPLACEMENT, ticket.n).permutation(len(window))
            before = len(made.skipped)
            with _one_thread():
                sample = self._first_usable(ticket, (_of_row(window[i]) for i in order), made)
            if sample is None:
                raise _hopeless(made.skipped[before:])
            made.put(place, sample)

    def _candidates(self, ticket: Ticket) -> Iterator[Candidate]:
        """The ticket's picture; then, of a source that can be read in any order, others of it."""
        if ticket.row is not None:
            yield _of_row(ticket.row)
            return
        source = self.sources[ticket.source]
        assert source is not None  # streams give their rows with the ticket
        yield _of_source(source, ticket.index)
        others = generator(self.seed, Purpose.REPLACEMENT, ticket.n)
        for index in others.choice(len(source), size=min(ATTEMPTS, len(source)), replace=False):
            if index != ticket.index:
                yield _of_source(source, int(index))

    def _first_usable(self, ticket: Ticket, candidates: Iterable[Candidate], made: Made) -> Sample | None:
        for name, read, caption in islice(candidates, ATTEMPTS):
            try:
                image = decode(read())
            except BrokenPicture as error:
                made.skipped.append((name, f"broken: {error}"))
                continue
            except OSError as error:
                made.skipped.append((name, f"it cannot be read: {error.strerror or first_line(error)}"))
                continue
            if min(image.size) < self.config.resolution:
                if self.config.small == "skip":
                    reason = f"its {image.width}x{image.height} px are too small for {self.config.resolution}"
                    made.skipped.append((name, reason))
                    continue
                made.small.append(name)
            return self._pair(ticket, name, image, caption)
        return None

    def _pair(
        self, ticket: Ticket, name: str, image: Image.Image, caption: Callable[[], str | None]
    ) -> Sample:
        config, n = self.config, ticket.n
        hq = self._square(image, n)
        target = None
        if ticket.source in self.targets:
            target = self._square(self.targets[ticket.source].of(name, image.size), n)[0] * 2 - 1
        official = True if config.degradation_official else None
        preset = config.sources[ticket.source].degradation or config.degradation
        lq, hq, _ = degrade_pair(hq, preset, config.scale, self.seed, n, official)
        of_both = config.prompt_dropout_of == "both"
        prompt = (
            ""
            if of_both and drops_prompt(self.seed, n, config.prompt_dropout)
            else self.captions.prompt(name, caption)
        )
        return Sample(lq[0] * 2 - 1, hq[0] * 2 - 1, prompt, name, target)

    def _square(self, image: Image.Image, n: int) -> Tensor:
        """(1, 3, R, R) in [0, 1]: the place and position of sample n, whatever the picture."""
        config, side = self.config, self.config.resolution
        rng = generator(self.seed, Purpose.CROP, n)
        square = whole(image, side) if config.picture == "whole" else random_crop(image, side, rng)
        pixels = turned(square, rng, config.flip, config.rotate).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(pixels)).float()[None] / 255


class Targets:
    """A teacher's pictures in a folder, each of the name of the picture that it was made of, with any suffix."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}; mend targets in data.sources.")
        self.folder = folder
        others: list[Path] = []
        self._files = {path.stem: path for path in find_pictures(folder, left_out=others.append)}
        if others:
            log.warning("%s: %s", folder, left_out_words(others))

    def of(self, name: str, size: tuple[int, int]) -> Image.Image:
        """The picture for `name`, a path. Raises DataError where there is none of this size."""
        path = self._files.get(Path(name).stem)
        if path is None:
            raise DataError(f"{self.folder} has no picture {Path(name).stem}, the target of {name}; add it.")
        try:
            image = decode(path.read_bytes())
        except (BrokenPicture, OSError) as error:
            raise DataError(f"The target {path} cannot be used ({first_line(error)}); replace it.") from error
        if image.size != size:
            raise DataError(
                f"The target {path} has {image.width}x{image.height} px, and {name} has {size[0]}x{size[1]}; make them "
                "alike."
            )
        return image


def drops_prompt(seed: int, n: int, probability: float) -> bool:
    """Whether sample n's prompt is dropped."""
    return bool(generator(seed, Purpose.DROPOUT, n).random() < probability)


def random_crop(image: Image.Image, side: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (side, side, 3) from a random place; of a smaller picture the largest square, enlarged."""
    taken = min(side, *image.size)
    left, top = (int(rng.integers(length - taken + 1)) for length in image.size)
    crop = image.crop((left, top, left + taken, top + taken))
    if taken < side:
        crop = crop.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(crop)


def whole(image: Image.Image, side: int) -> np.ndarray:
    """All of it as uint8 (side, side, 3), by LANCZOS; its shape is not kept, as in the official face training."""
    resized = image if image.size == (side, side) else image.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def turned(pixels: np.ndarray, rng: np.random.Generator, flip: bool, rotate: bool) -> np.ndarray:
    """A square (side, side, 3) mirrored, turned upside down and transposed, each half of the time."""
    if rng.random() < 0.5 and flip:
        pixels = pixels[:, ::-1]
    if rotate and rng.random() < 0.5:
        pixels = pixels[::-1]
    if rotate and rng.random() < 0.5:
        pixels = pixels.transpose(1, 0, 2)
    return pixels


def _hopeless(skipped: list[tuple[str, str]]) -> DataError:
    name, reason = skipped[-1]
    return DataError(
        f"{len(skipped)} pictures in a row cannot be used, the last one {name} ({reason}); check data.sources and "
        "data.small."
    )


def _of_row(row: Row) -> Candidate:
    return row.name, lambda: row.data, lambda: row.caption


def _of_source(source: Source, index: int) -> Candidate:
    return source.name(index), lambda: source.read(index), lambda: source.caption(index)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: the last bits of a convolution depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
