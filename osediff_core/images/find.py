"""Pictures in folders, told by their names alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .files import READ_SUFFIXES


def _no_folder(_: Path) -> bool:
    return False


def _raise(error: OSError) -> None:
    raise error


def find_pictures(
    folder: Path, enter: Callable[[Path], bool] = _no_folder, unreadable: Callable[[OSError], None] = _raise
) -> Iterator[Path]:
    """The files in `folder` that have a picture's suffix, by name; then those of its sub-folders, by name.

    enter: which sub-folders are looked into. unreadable: is told of folders that cannot be. Hidden files are left out:
    among them are macOS's ._NAME.jpg, which are no pictures.
    """
    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if enter(Path(root, name)))
        for name in sorted(files):
            if Path(name).suffix.lower() in READ_SUFFIXES and not name.startswith("."):
                yield Path(root, name)
