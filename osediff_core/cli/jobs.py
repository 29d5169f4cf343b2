"""Jobs: which files are read and where each result goes, settled before any model is loaded."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, OptionError, explained

# Formats that are written without loss keep their suffix; a JPEG result would lose what was just restored.
_KEPT_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".webp"})
FORMATS = {"png": ".png", "tiff": ".tif", "webp": ".webp", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Job:
    """One picture: `source` is read, `output` is written."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Plan:
    """jobs in the order they are done; unreadable: inputs that give no job, each with the sentence that says why."""

    jobs: list[Job]
    unreadable: list[tuple[Path, str]]

    @property
    def total(self) -> int:
        """The number of pictures asked for, as far as is known."""
        return len(self.jobs) + len(self.unreadable)


def make_plan(
    inputs: list[Path], output: Path, *, recursive: bool = False, file_format: str | None = None
) -> Plan:
    """Pairs every picture in `inputs` (files, or folders of pictures) with its output file.

    `output` is a file if there is one input that is no folder and `output` has an image suffix; else a
    folder. In a folder the result is called like the input, with the suffix of `file_format`, or the input's
    own if that format is written without loss, or .png. With `recursive`, sub-folders are searched and kept
    in the output. Raises OptionError if one output would come from two inputs or overwrite an input.
    """
    to_file = _is_file_output(inputs, output)
    if to_file and file_format and output.suffix.lower() != FORMATS[file_format]:
        raise OptionError(
            f"--format {file_format} does not suit the output {output}; leave out one of the two."
        )
    found, unreadable = find_inputs(inputs, recursive=recursive, results=output)
    jobs = [
        Job(source, output if to_file else output / relative.with_suffix(_suffix(relative, file_format)))
        for source, relative in found
    ]
    _check_clashes(jobs)
    return Plan(jobs, unreadable)


def find_inputs(
    inputs: list[Path], *, recursive: bool = False, results: Path | None = None
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Every picture of files and folders as (path, path relative to its folder), once, without those below `results`.

    Second, the inputs that give no picture, each with the sentence that says why.
    """
    pictures: list[tuple[Path, Path]] = []
    unreadable: list[tuple[Path, str]] = []
    for given in inputs:
        if not os.path.exists(given):
            unreadable.append((given, f"{given} does not exist; check the path."))
            continue
        if os.path.isdir(given):
            found, refused = _pictures(given, results, recursive)
            unreadable += refused
        else:
            found, refused = [(given, Path(given.name))], []
        if not found and not refused:
            more = "" if recursive else ", or use --recursive for its sub-folders"
            unreadable.append((given, f"The folder {given} holds no pictures; check the path{more}."))
        pictures += found
    once = {_same(picture[0]): picture for picture in reversed(pictures)}  # named twice is one
    return list(once.values())[::-1], unreadable


def _is_file_output(inputs: list[Path], output: Path) -> bool:
    from ..images import WRITE_FORMATS

    if os.path.isdir(output) or output.suffix.lower() not in WRITE_FORMATS:
        return False
    if len(inputs) > 1:
        raise OptionError(
            f"There are {len(inputs)} inputs, but the output {output} is one file; give a folder."
        )
    return not os.path.isdir(inputs[0])


def _pictures(
    folder: Path, results: Path | None, recursive: bool
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """The pictures of a folder as (path, path relative to it), sorted, without earlier results and hidden files.

    Second, the folders that could not be looked into, each with the sentence that says why.
    """
    from ..images import find_pictures

    refused: list[tuple[Path, str]] = []

    def refuse(error: OSError) -> None:
        why = error.strerror or error
        text = f"The folder {error.filename} cannot be read ({why}); change its permissions or leave it out."
        refused.append((Path(error.filename), text))

    left_out = None if results is None else _same(results)

    def enter(below: Path) -> bool:
        # results of an earlier run may lie below the input folder; they are no input
        return recursive and not below.name.startswith(".") and _same(below) != left_out

    found = [(path, path.relative_to(folder)) for path in find_pictures(folder, enter, refuse)]
    return found, refused


def _suffix(source: Path, file_format: str | None) -> str:
    if file_format:
        return FORMATS[file_format]
    return source.suffix if source.suffix.lower() in _KEPT_SUFFIXES else ".png"


def _same(path: Path) -> str:
    """Equal for two spellings of one path."""
    return os.path.normcase(os.path.realpath(path))


def _check_clashes(jobs: list[Job]) -> None:
    sources = {_same(job.source): job.source for job in jobs}
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


def check_outputs(jobs: list[Job]) -> None:
    """Makes the output folders and tries to write in each. Raises ImageError where that fails."""
    for folder in dict.fromkeys(job.output.parent for job in jobs):
        with explained(ImageError, f"Nothing can be written to {folder}", "choose another output (-o)"):
            folder.mkdir(parents=True, exist_ok=True)
            # only an attempt tells: permission bits say nothing about read-only disks or network shares
            with tempfile.TemporaryFile(dir=folder):
                pass
    for job in jobs:
        if os.path.isdir(job.output):
            raise ImageError(
                f"The output {job.output} is a folder; remove it or choose another output with -o."
            )
