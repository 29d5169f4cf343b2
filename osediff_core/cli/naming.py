"""Names of outputs: what is a file and what a folder, and results called by a template."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError

FIELDS = ("stem", "number")


def output_folder(output: str, file_suffixes: Container[str] = ()) -> bool:
    """Whether a path given as an output is meant as a folder: it is one, ends in a slash, or looks like no file.

    file_suffixes: of files that could be written there. Raises OptionError for another suffix: a folder of that name
    would hardly be meant.
    """
    path = Path(output)
    if os.path.isfile(path) and not file_suffixes:
        return True  # that no folder can be there is said when it is made
    if os.path.isdir(path) or output.endswith(("/", os.sep)) or not re.search("[a-zA-Z]", path.suffix):
        return True
    if path.suffix.lower() in file_suffixes:
        return False
    why = (
        f"cannot be written as {path.suffix}; use .png, .tif, .webp or .jpg"
        if file_suffixes
        else "must be a folder"
    )
    raise OptionError(f"The output {output} {why}, or end it with {os.sep} for a folder of that name.")


@dataclass(frozen=True)
class Template:
    """A result's name without suffix, as "{stem}_x4" or "scan_{number:04}"."""

    text: str

    def __post_init__(self) -> None:
        """Raises ValueError, a clause, for one that makes no name."""
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(self.text) if name is not None]
            if not set(fields) <= set(FIELDS):
                raise ValueError("has a field other than {stem} and {number}")
            made = self.of("a", 1)
        except (KeyError, IndexError, TypeError):
            raise ValueError("cannot be filled in") from None
        if not made.strip(". ") or re.search(r"[/\\\x00]", made):
            raise ValueError("makes no name of a file")
        if not fields:
            raise ValueError("makes one name for all; put {stem} or {number} into it")

    def of(self, stem: str, number: int) -> str:
        """The name for an input's name without suffix, and its place in the run, from 1."""
        return self.text.format(stem=stem, number=number)
