"""Jobs: which files are read and where each result goes, settled before any model is loaded."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import JPEG_QUALITY
from ..errors import ImageError, OptionError, explained, writing
from .naming import Template, output_folder

if TYPE_CHECKING:
    from ..batch.shard import Shard
    from ..images import Picture

logger = logging.getLogger(__name__)

# Formats that are written without loss keep their suffix; a JPEG result would lose what was just restored.
_KEPT_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".webp"})
FORMATS = {"png": ".png", "tiff": ".tif", "webp": ".webp", "jpeg": ".jpg"}
STREAM = Path("-")  # standard input as a source, standard output as an output

Unreadable = tuple[Path, str]  # an input that gives no job, and the sentence that says why


@dataclass(frozen=True)
class Job:
    """One picture: `source` is read, `output` is written."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Inputs:
    """pictures: (path, path relative to its folder). left_out: pictures in folders whose format is not read."""

    pictures: list[tuple[Path, Path]]
    unreadable: list[Unreadable]
    left_out: list[Path]


@dataclass(frozen=True)
class Plan:
    """jobs in the order they are done; unreadable and left_out as in `Inputs`."""

    jobs: list[Job]
    unreadable: list[Unreadable]
    left_out: list[Path] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of pictures asked for, as far as is known."""
        return len(self.jobs) + len(self.unreadable)


def make_plan(
    inputs: Sequence[str],
    output: str,
    *,
    recursive: bool = False,
    file_format: str | None = None,
    name: Template | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Pairs every picture in `inputs` (files, or folders of pictures) with its output file.

    `output` is "-", a file if there is one input that is no folder and `output` has an image suffix, or a folder. In a
    folder the result is called like the input or as `name` makes it, with the suffix of `file_format`, or the input's
    own if that format is written without loss, or .png. With `recursive`, sub-folders are searched and kept in the
    output. Raises OptionError if one output would come from two inputs or overwrite an input, and for an output that is
    neither.
    """
    sources = [Path(one) for one in inputs]
    to_file = _is_file_output(sources, output)
    target = Path(output)
    if to_file and name is not None:
        raise OptionError(f"--name is for results in a folder, but the output {output} is one file.")
    if to_file and file_format and target != STREAM and target.suffix.lower() != FORMATS[file_format]:
        raise OptionError(
            f"--format {file_format} does not suit the output {output}; leave out one of the two."
        )
    found = find_inputs(sources, recursive=recursive, results=target)
    jobs = []
    for number, (source, relative) in enumerate(found.pictures, 1):
        if to_file:
            jobs.append(Job(source, target))
            continue
        stem = relative.stem if name is None else name.of(relative.stem, number)
        jobs.append(Job(source, target / relative.with_name(stem + _suffix(relative, file_format))))
    _check_clashes(jobs)
    if shard is None:
        return Plan(jobs, found.unreadable, found.left_out)
    mine = [job for job, (_, path) in zip(jobs, found.pictures, strict=True) if shard.has(path.as_posix())]
    return Plan(mine, [one for one in found.unreadable if shard.has(one[0].as_posix())], found.left_out)


def find_inputs(inputs: Sequence[Path], *, recursive: bool = False, results: Path | None = None) -> Inputs:
    """Every picture of files and folders once, without those below `results`; what is left out is said."""
    from ..images import left_out_words

    pictures: list[tuple[Path, Path]] = []
    unreadable: list[Unreadable] = []
    left_out: list[Path] = []
    if recursive and not any(os.path.isdir(given) for given in inputs):
        logger.warning("--recursive has no effect, as no input is a folder")
    for given in inputs:
        if given == STREAM:
            pictures.append((STREAM, Path("stdin")))
            continue
        if not os.path.exists(given):
            unreadable.append((given, f"{given} does not exist; check the path."))
            continue
        found, refused, others = [(given, Path(given.name))], [], []
        if os.path.isdir(given):
            found, refused, others = _pictures(given, results, recursive)
            unreadable += refused
            left_out += others
        if others:
            logger.warning("%s: %s", given, left_out_words(others))
        if not found and not refused:
            unreadable.append((given, _no_pictures(given, recursive, others)))
        pictures += found
    once = {_same(picture[0]): picture for picture in reversed(pictures)}  # named twice is one
    return Inputs(list(once.values())[::-1], unreadable, left_out)


def _no_pictures(folder: Path, recursive: bool, others: list[Path]) -> str:
    if others:
        return (
            f"The folder {folder} holds no pictures that can be read; save them as PNG, JPEG, WebP or TIFF."
        )
    more = "" if recursive else ", or use --recursive for its sub-folders"
    return f"The folder {folder} holds no pictures; check the path{more}."


def _is_file_output(inputs: list[Path], output: str) -> bool:
    """Whether there is one result and no folder for it. Raises OptionError where it can be neither."""
    from ..images import WRITE_FORMATS

    if output == str(STREAM):
        if len(inputs) > 1 or os.path.isdir(inputs[0]):
            raise OptionError(
                "The output - is one picture; give one input that is no folder, or a folder as output."
            )
        return True
    if output_folder(output, WRITE_FORMATS):
        return False
    if len(inputs) > 1 or os.path.isdir(inputs[0]):
        many = f"There are {len(inputs)} inputs" if len(inputs) > 1 else f"The input {inputs[0]} is a folder"
        raise OptionError(
            f"{many}, but the output {output} is one file; give a folder, or end it with {os.sep} to make one of that "
            "name."
        )
    return True


def _pictures(
    folder: Path, results: Path | None, recursive: bool
) -> tuple[list[tuple[Path, Path]], list[Unreadable], list[Path]]:
    """The pictures of a folder as (path, path relative to it), sorted, without earlier results and hidden files.

    Second, the folders that could not be looked into, each with the sentence that says why; third, pictures that are
    left out for their format.
    """
    from ..images import find_pictures

    refused: list[Unreadable] = []
    left_out: list[Path] = []

    def refuse(error: OSError) -> None:
        why = error.strerror or error
        text = f"The folder {error.filename} cannot be read ({why}); change its permissions or leave it out."
        refused.append((Path(error.filename), text))

    own = None if results is None else _same(results)

    def enter(below: Path) -> bool:
        # results of an earlier run may lie below the input folder; they are no input
        return recursive and not below.name.startswith(".") and _same(below) != own

    found = [
        (path, path.relative_to(folder)) for path in find_pictures(folder, enter, refuse, left_out.append)
    ]
    return found, refused, left_out


def _suffix(source: Path, file_format: str | None) -> str:
    if file_format:
        return FORMATS[file_format]
    return source.suffix if source.suffix.lower() in _KEPT_SUFFIXES else ".png"


def _same(path: Path) -> str:
    """Equal for two spellings of one path."""
    return str(path) if path == STREAM else os.path.normcase(os.path.realpath(path))


def _check_clashes(jobs: list[Job]) -> None:
    sources = {_same(job.source): job.source for job in jobs if job.source != STREAM}
    outputs: dict[str, Path] = {}
    for job in jobs:
        key = _same(job.output)
        if key in sources:
            raise OptionError(
                f"{job.output} would overwrite the input {sources[key]}; choose another output."
            )
        if key in outputs:
            raise OptionError(
                f"{outputs[key]} and {job.source} would both become {job.output}; rename one, or write "
                "them into different folders."
            )
        outputs[key] = job.source


def check_outputs(jobs: Sequence[Job]) -> None:
    """Makes the output folders and tries to write in each. Raises ImageError where that fails."""
    files = [job for job in jobs if job.output != STREAM]
    for folder in dict.fromkeys(job.output.parent for job in files):
        with writing(ImageError, f"Nothing can be written to {folder}", "choose another output (-o)"):
            folder.mkdir(parents=True, exist_ok=True)
            # only an attempt tells: permission bits say nothing about read-only disks or network shares
            with tempfile.TemporaryFile(dir=folder):
                pass
    for job in files:
        if os.path.isdir(job.output):
            raise ImageError(
                f"The output {job.output} is a folder; remove it or choose another output with -o."
            )


def is_done(job: Job) -> bool:
    """Whether the output is there and begins as a picture does, which an empty file of a full disk does not."""
    from ..images import is_picture

    return job.output != STREAM and is_picture(job.output)


def name_of(job: Job) -> str:
    """The source, in messages."""
    return "standard input" if job.source == STREAM else str(job.source)


def read_bytes(job: Job) -> bytes:
    """The source's bytes. Raises ImageError."""
    from ..images import read_file

    if job.source != STREAM:
        return read_file(job.source)
    with explained(ImageError, "Standard input cannot be read", "give a file instead of -"):
        if sys.stdin.isatty():
            raise ImageError(
                "Standard input is a terminal; pipe a picture into it, or give a file instead of -."
            )
        return sys.stdin.buffer.read()


def read_source(job: Job) -> Picture:
    """The picture of a job. Raises ImageError."""
    from ..images import decode_image

    return decode_image(read_bytes(job), name_of(job))


def written_as(job: Job, file_format: str | None) -> Path:
    """The output, with the suffix of the format that it will have: on standard output PNG unless another is asked."""
    return STREAM.with_suffix(FORMATS[file_format or "png"]) if job.output == STREAM else job.output


def write_bytes(job: Job, data: bytes) -> None:
    """Writes the bytes of the output. Raises ImageError, DiskFull."""
    from ..images import write_file

    if job.output != STREAM:
        write_file(job.output, data)
        return
    with writing(ImageError, "Standard output takes no picture", "give a file instead of -"):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def write_result(job: Job, picture: Picture, args: argparse.Namespace) -> None:
    """Writes the result of a job as the options of `add_pictures` say. Raises ImageError, DiskFull."""
    from ..images import check_format, encode_image

    path = written_as(job, args.format)
    check_format(path, picture.size, picture.alpha is not None)
    quality = args.jpeg_quality or JPEG_QUALITY
    write_bytes(job, encode_image(path.suffix, picture, quality=quality, metadata=args.keep_metadata))
