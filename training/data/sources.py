"""Pictures by number: folders, lists and, from shards.py and hub.py, what holds many of them in a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol, get_args

from osediff_core.images import find_pictures, left_out_words

from .config import Kind, SourceConfig
from .errors import DataError
from .shards import Shards, find_shards, first_text

log = logging.getLogger(__name__)

_KINDS: dict[str, Kind] = {".tar": "shards", ".txt": "list", ".parquet": "dataset", ".arrow": "dataset"}


class Source(Protocol):
    """`len` pictures; picture i is the same one at every call and in every process.

    skipped: name -> reason of what was left out when it was opened.
    """

    skipped: dict[str, str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where it came from, for messages and caption files."""
        ...

    def read(self, index: int) -> bytes:
        """The encoded picture. Raises OSError."""
        ...

    def caption(self, index: int) -> str | None:
        """The text beside it, if there is one."""
        ...


class Files:
    """Pictures as files of their own; captions are NAME.txt beside NAME.png."""

    def __init__(self, paths: list[Path], skipped: dict[str, str] | None = None) -> None:
        self.paths, self.skipped = paths, skipped or {}

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Its path."""
        return str(self.paths[index])

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return self.paths[index].read_bytes()

    def caption(self, index: int) -> str | None:
        """The .txt file's first line."""
        try:
            return first_text(self.paths[index].with_suffix(".txt").read_bytes())
        except OSError:
            return None


def open_source(config: SourceConfig) -> Source:
    """Find the pictures of a source that can be read in any order. Raises DataError."""
    if config.kind not in get_args(Kind):
        raise DataError(f"The kind {config.kind!r} of a source is unknown; use {', '.join(get_args(Kind))}.")
    kind = config.kind if config.kind != "auto" else _guess(config.path)
    if kind == "folder":
        source: Source = Files(_limited(_in_folder(Path(config.path), config.exclude), config.limit))
    elif kind == "list":
        source = _from_list(Path(config.path), config.limit)
    elif kind == "shards":
        source = Shards(find_shards(config.path), config.limit)
    else:
        from .hub import TableSource

        source = TableSource(config)
    if not len(source):
        missing = f": all {len(source.skipped)} in it are missing or broken" if source.skipped else ""
        raise DataError(f"There is no picture in {config.path}{missing}; give a source with some.")
    return source


def _guess(path: str) -> Kind:
    folder = Path(path)
    if any((folder / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return "dataset"
    if not folder.is_dir():
        return _KINDS.get(folder.suffix.lower(), "folder")
    packed: Iterator[Kind] = (
        kind for suffix, kind in _KINDS.items() if suffix != ".txt" and any(folder.glob(f"*{suffix}"))
    )
    found = next(packed, None)
    return found if found and not any(_pictures(folder)) else "folder"


def _in_folder(folder: Path, exclude: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; mend data.sources or put the pictures there.")
    found = {}
    others: list[Path] = []
    for path in _pictures(folder, others.append):
        below = path.relative_to(folder).as_posix()
        if not any(fnmatch(below, pattern) for pattern in exclude):
            found[below] = path
    if others:
        log.warning("%s: %s", folder, left_out_words(others))
    return [found[below] for below in sorted(found)]


def _pictures(folder: Path, left_out: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    return find_pictures(folder, enter=lambda _: True, unreadable=lambda _: None, left_out=left_out)


def _from_list(path: Path, limit: int) -> Files:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"The list {path} cannot be read ({error.strerror}); mend data.sources.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The list {path} is no text; give one with a picture's path a line.") from error
    listed = [path.parent / line.strip() for line in lines if line.strip()]
    listed = _limited(listed, limit)
    # One look into each folder, not one at each picture: a list may hold millions, on a slow disk.
    there = {parent: _names_in(parent) for parent in {one.parent for one in listed}}
    missing = {str(one): "it does not exist" for one in listed if one.name not in there[one.parent]}
    return Files([one for one in listed if one.name in there[one.parent]], missing)


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _limited(paths: list[Path], limit: int) -> list[Path]:
    return paths[:limit] if limit else paths
