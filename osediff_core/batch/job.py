"""Jobs of a batch: a file with one picture or with many, the picture as a task, and what is asked of who does it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ImageError, OptionError, explained, writing
from . import places
from .places import STREAM, Place, Remote, place_of
from .record import Result

if TYPE_CHECKING:
    from ..ports import Progress

# Formats that are written without loss keep their suffix; a JPEG result would lose what was just restored.
_KEPT_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".webp"})
FORMATS = {"png": ".png", "tiff": ".tif", "webp": ".webp", "jpeg": ".jpg"}
CONTAINERS = (".tar", ".parquet")  # files that hold many pictures, and become such files


@dataclass(frozen=True)
class Job:
    """One file: `source` is read, `output` is written. number: its place among all of the run, from 1.

    file_format: of pictures, a key of FORMATS; None: the input's where that loses nothing. column: of parquet, which
    holds the pictures. beside: further files that belong to it.
    """

    source: Place
    output: Place
    number: int = 1
    file_format: str | None = None
    column: str | None = None
    beside: tuple[Place | None, ...] = ()

    @property
    def holds_many(self) -> bool:
        """Whether its pictures are inside of one file."""
        return self.source.suffix.lower() in CONTAINERS


@dataclass(frozen=True)
class FileJob(Job):
    """One picture, in files of this machine."""

    source: Path
    output: Path

    @classmethod
    def of(cls, job: Job) -> FileJob:
        """Raises OptionError for a job of another kind."""
        if not isinstance(job.source, Path) or not isinstance(job.output, Path) or job.holds_many:
            raise OptionError(f"{job.source} is no picture in a file, as is needed here; copy it into one.")
        return cls(**vars(job))


@dataclass(frozen=True)
class Task:
    """One picture. name: in messages. output: its suffix is the format. read, write: the bytes of both files.

    number, beside: as in `Job`; within a file that holds many, each has a number of its own.
    """

    name: str
    output: PurePath
    read: Callable[[], bytes]
    write: Callable[[bytes], None]
    number: int = 1
    beside: tuple[Place | None, ...] = ()


class Work(Protocol):
    """What is done with pictures. kind: of the records. done: the status of a success. writes: makes a picture."""

    @property
    def kind(self) -> type[Result]: ...
    @property
    def done(self) -> str: ...
    @property
    def writes(self) -> bool: ...

    def load(self) -> None:
        """Loads what is not loaded yet. Raises OSEDiffError: without it nothing can be done."""
        ...

    def work(
        self,
        task: Task,
        result: Any,  # noqa: ANN401 - of `kind`
        step: Progress | None = None,
        *,
        dry_run: bool = False,
        debug: bool = False,
    ) -> None:
        """Does it, or says in `result` why not; with dry_run, what would come of it.

        Raises what `load` does, and RunEnds where the others would fail as well.
        """
        ...


class Recipe(Protocol):
    """Plain values that say what is done, fit for other processes and JSON; a dataclass."""

    @property
    def device(self) -> str:
        """Of `--device`."""
        ...

    def open(self) -> Work:
        """Nothing is loaded yet."""
        ...


def options_of(recipe: Any) -> dict[str, Any]:  # noqa: ANN401 - a recipe, or a group of values in one
    """Its values by the names that the command's options have, which know no groups; sliders are a method's own."""
    found: dict[str, Any] = {}
    for one in fields(recipe):
        value = getattr(recipe, one.name)
        if one.name == "options":
            found |= options_of(value)
        elif one.name == "vae":
            found |= {f"vae_{name}": what for name, what in options_of(value).items()}
        else:
            found[one.name] = dict(value) if isinstance(value, Mapping) else value
    return found


One = Callable[[Task, Any], None]  # does one picture, and fills in its record


def task_of(job: Job) -> Task:
    """The picture of a job that is one."""
    return Task(
        name_of(job),
        written_as(job),
        partial(read_source, job),
        partial(write_output, job),
        job.number,
        job.beside,
    )


def as_text(job: Job) -> str:
    """JSON, for other processes; names may be bytes that are no text."""
    return json.dumps(
        {name: value if name == "number" else _text(value) for name, value in vars(job).items()}
    )


def _text(value: Any) -> Any:  # noqa: ANN401 - of a job
    if isinstance(value, tuple):
        return [_text(one) for one in value]
    return None if value is None else str(value)


def from_text(text: str) -> Job:
    """The opposite of `as_text`."""
    found = json.loads(text)
    source, output = (place_of(found.pop(name)) for name in ("source", "output"))
    beside = tuple(None if one is None else place_of(one) for one in found.pop("beside"))
    return Job(source, output, beside=beside, **found)


def suffix_of(source: PurePath | Remote, file_format: str | None) -> str:
    """Of a result."""
    if file_format:
        return FORMATS[file_format]
    return source.suffix if source.suffix.lower() in _KEPT_SUFFIXES else ".png"


def name_of(job: Job) -> str:
    """The source, in messages."""
    return "standard input" if job.source == STREAM else str(job.source)


def written_as(job: Job) -> Path:
    """The output, with the suffix of the format that it will have: on standard output PNG unless another is asked."""
    if job.output == STREAM:
        return STREAM.with_suffix(FORMATS[job.file_format or "png"])
    return job.output if isinstance(job.output, Path) else Path(job.output.path)


def read_source(job: Job) -> bytes:
    """The source's bytes. Raises ImageError."""
    if job.source != STREAM:
        return places.read_bytes(job.source)
    with explained(ImageError, "Standard input cannot be read", "give a file instead of -"):
        if sys.stdin.isatty():
            raise ImageError(
                "Standard input is a terminal; pipe a picture into it, or give a file instead of -."
            )
        return sys.stdin.buffer.read()


def write_output(job: Job, data: bytes) -> None:
    """Writes the bytes of the output. Raises ImageError, DiskFull."""
    if job.output != STREAM:
        places.write_bytes(job.output, data)
        return
    with writing(ImageError, "Standard output takes no picture", "give a file instead of -"):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def is_done(place: Place) -> bool:
    """Whether a result is there and begins as one does, which an empty file of a full disk does not."""
    from ..images import is_picture

    if isinstance(place, Remote):
        return bool(places.there([place]))
    if place == STREAM:
        return False
    if place.suffix.lower() in CONTAINERS:
        return place.is_file() and place.stat().st_size > 0
    return is_picture(place)


def done_among(outputs: list[Place]) -> set[Place]:
    """Those of them that are done; of an object store by a listing."""
    far = [one for one in outputs if isinstance(one, Remote)]
    near = {one for one in outputs if not isinstance(one, Remote) and is_done(one)}
    return near | places.there(far)
