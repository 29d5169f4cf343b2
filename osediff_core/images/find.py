"""Pictures in folders, told by their names alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path

from .formats import OTHER_SUFFIXES, READ_SUFFIXES


def _no_folder(_: Path) -> bool:
    return False


def _raise(error: OSError) -> None:
    raise error


def _ignore(_: Path) -> None:
    pass


def find_pictures(
    folder: Path,
    enter: Callable[[Path], bool] = _no_folder,
    unreadable: Callable[[OSError], None] = _raise,
    left_out: Callable[[Path], None] = _ignore,
    suffixes: Container[str] = READ_SUFFIXES,
) -> Iterator[Path]:
    """The files in `folder` that have a picture's suffix, by name; then those of its sub-folders, by name.

    suffixes: others than pictures'. enter: which sub-folders are looked into. unreadable: is told of folders that
    cannot be. left_out: is told of files whose suffix is that of pictures of a format that is not read. Hidden files
    are left out: among them are macOS's ._NAME.jpg, which are no pictures.
    """
    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if enter(Path(root, name)))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                yield Path(root, name)
            elif suffix in OTHER_SUFFIXES:
                left_out(Path(root, name))


def left_out_words(paths: Iterable[Path]) -> str:
    """How many pictures of which formats were left out, as a clause that ends in "2 .heic, 1 .jxl"."""
    counts = Counter(path.suffix.lower() for path in paths)
    total = sum(counts.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    if total == 1:
        return f"1 picture of a format that is not read is left out: {kinds}"
    return f"{total} pictures of formats that are not read are left out: {kinds}"
