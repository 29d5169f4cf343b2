"""Jobs: which files are read and where each result goes, settled before any model is loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.job import CONTAINERS, FORMATS, Job, suffix_of
from ..batch.places import STREAM, Place, Remote, check_reachable, place_of
from ..errors import ImageError, OptionError, writing
from .inputs import Inputs, Unreadable, find_inputs, same
from .naming import Template, output_folder

if TYPE_CHECKING:
    from ..batch.shard import Shard


@dataclass(frozen=True)
class Plan:
    """jobs in the order they are done; unreadable and left_out as in `Inputs`."""

    jobs: list[Job]
    unreadable: list[Unreadable]
    left_out: list[Place] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of jobs asked for, as far as is known."""
        return len(self.jobs) + len(self.unreadable)


def make_plan(
    inputs: Sequence[str],
    output: str | None,
    *,
    recursive: bool = False,
    file_format: str | None = None,
    column: str | None = None,
    name: Template | None = None,
    shard: Shard | None = None,
) -> Plan:
    """Pairs every picture in `inputs` (files, lists, folders or prefixes of pictures) with its output file.

    `output` is "-", a file if there is one input that is no folder and `output` has an image suffix, or a folder; None:
    nothing is written. In a folder the result is called like the input or as `name` makes it, with the suffix of
    `file_format`, or the input's own if that format is written without loss, or .png; a file that holds many pictures
    keeps its own. With `recursive`, sub-folders are searched and kept in the output. Raises OptionError if one output
    would come from two inputs or overwrite an input, and for an output that is neither.
    """
    target = None if output is None else place_of(output)
    found = find_inputs(inputs, recursive=recursive, results=target)
    if target is None or output is None:
        jobs = [
            Job(source, source, number, file_format, column)
            for number, (source, _) in enumerate(found.pictures, 1)
        ]
    else:
        to_file = _is_file_output(inputs, found, output)
        if to_file and name is not None:
            raise OptionError(f"--name is for results in a folder, but the output {output} is one file.")
        fitting = ("", *CONTAINERS, file_format and FORMATS[file_format])  # "": of standard output
        if to_file and file_format and target.suffix.lower() not in fitting:
            raise OptionError(
                f"--format {file_format} does not suit the output {output}; leave out one of the two."
            )
        jobs = []
        for number, (source, relative) in enumerate(found.pictures, 1):
            job = Job(source, target, number, file_format, column)
            if not to_file:
                stem = relative.stem if name is None else name.of(relative.stem, number)
                suffix = relative.suffix if job.holds_many else suffix_of(relative, file_format)
                job = replace(job, output=target / relative.with_name(stem + suffix))
            jobs.append(job)
        _check_clashes(jobs)
    if shard is None:
        return Plan(jobs, found.unreadable, found.left_out)
    mine = [job for job, (_, path) in zip(jobs, found.pictures, strict=True) if shard.has(path.as_posix())]
    return Plan(mine, [one for one in found.unreadable if shard.has(str(one[0]))], found.left_out)


def _is_file_output(inputs: Sequence[str], found: Inputs, output: str) -> bool:
    """Whether there is one result and no folder for it. Raises OptionError where it can be neither."""
    from ..images import WRITE_FORMATS

    alone = len(inputs) == 1 and not found.folders
    if output == str(STREAM):
        if not alone or any(Path(source.name).suffix.lower() in CONTAINERS for source, _ in found.pictures):
            raise OptionError(
                "The output - is one picture; give one input that is no folder, or a folder as output."
            )
        return True
    kinds = {source.suffix.lower() for source, _ in found.pictures} & set(CONTAINERS)
    target = place_of(output)
    if (isinstance(target, Remote) and not target.path) or output_folder(output, kinds or WRITE_FORMATS):
        return False
    if not alone:
        many = f"There are {len(inputs)} inputs" if len(inputs) > 1 else f"The input {inputs[0]} is a folder"
        raise OptionError(
            f"{many}, but the output {output} is one file; give a folder, or end it with {os.sep} to make one of that "
            "name."
        )
    return True


def _check_clashes(jobs: list[Job]) -> None:
    sources = {same(job.source): job.source for job in jobs if job.source != STREAM}
    outputs: dict[str, Place] = {}
    for job in jobs:
        key = same(job.output)
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
    files = [job.output for job in jobs if job.output != STREAM]
    for top in dict.fromkeys(replace(one, path="") for one in files if isinstance(one, Remote)):
        check_reachable(top)
    near = [one for one in files if isinstance(one, Path)]
    for folder in dict.fromkeys(one.parent for one in near):
        with writing(ImageError, f"Nothing can be written to {folder}", "choose another output (-o)"):
            folder.mkdir(parents=True, exist_ok=True)
            # only an attempt tells: permission bits say nothing about read-only disks or network shares
            with tempfile.TemporaryFile(dir=folder):
                pass
    for one in near:
        if os.path.isdir(one):
            raise ImageError(f"The output {one} is a folder; remove it or choose another output with -o.")
