"""Pictures by number: folders, lists and tar shards. Each can be asked for any of its pictures at any time."""

from __future__ import annotations

import glob
import tarfile
from pathlib import Path
from typing import Protocol

import numpy as np

from .config import SourceConfig
from .errors import DataError
from .pictures import SUFFIXES


class Source(Protocol):
    """`len` pictures; picture i is the same one at every call and in every process."""

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

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

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
        path = self.paths[index].with_suffix(".txt")
        return _first_line(path.read_bytes()) if path.exists() else None


class Shards:
    """Members of .tar files, found once by their headers and then read by position, so that any order is possible."""

    def __init__(self, shards: list[Path], limit: int = 0) -> None:
        self.shards = shards
        self.keys: list[str] = []
        pictures, texts = [], []
        for number, shard in enumerate(shards):
            for key, found in _members(shard).items():
                if "picture" in found and not (limit and len(self.keys) >= limit):
                    self.keys.append(key)
                    pictures.append((number, *found["picture"]))
                    texts.append(found.get("text", (0, -1)))
        self.pictures = np.array(pictures, np.int64).reshape(-1, 3)  # shard, offset, size
        self.texts = np.array(texts, np.int64).reshape(-1, 2)  # offset, size; -1: none

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, index: int) -> str:
        """SHARD.tar/KEY."""
        return f"{self.shards[self.pictures[index, 0]]}/{self.keys[index]}"

    def read(self, index: int) -> bytes:
        """The member's bytes."""
        shard, offset, size = self.pictures[index].tolist()
        return _slice(self.shards[shard], offset, size)

    def caption(self, index: int) -> str | None:
        """First line of the member KEY.txt."""
        offset, size = self.texts[index].tolist()
        return None if size < 0 else _first_line(_slice(self.shards[self.pictures[index, 0]], offset, size))


def open_source(config: SourceConfig) -> Source:
    """Find the pictures of a source that can be read in any order. Raises DataError."""
    kind = config.kind if config.kind != "auto" else _guess(config.path)
    if kind == "folder":
        source: Source = Files(_limited(_in_folder(Path(config.path)), config.limit))
    elif kind == "list":
        source = Files(_limited(_in_list(Path(config.path)), config.limit))
    elif kind == "shards":
        source = Shards(_shards(config.path), config.limit)
    else:
        from .hub import TableSource

        source = TableSource(config)
    if not len(source):
        raise DataError(f"There is no picture in {config.path}; give a source with some.")
    return source


def _guess(path: str) -> str:
    if path.endswith(".tar"):
        return "shards"
    if path.endswith(".txt"):
        return "list"
    folder = Path(path)
    is_table = path.endswith(".parquet") or (folder / "dataset_info.json").exists()
    return "dataset" if is_table else "folder"


def _in_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; mend data.sources or put the pictures there.")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _in_list(path: Path) -> list[Path]:
    """The paths are not looked for here: a list may hold millions, on a slow disk; a missing one is skipped later."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"The list {path} cannot be read ({error.strerror}); mend data.sources.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The list {path} is no text; give one with a picture's path a line.") from error
    return [path.parent / line.strip() for line in lines if line.strip()]


def _shards(pattern: str) -> list[Path]:
    found = [Path(path) for path in sorted(glob.glob(pattern))]
    if not found:
        raise DataError(f"No .tar file fits {pattern}; mend data.sources.")
    return found


def _members(shard: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """key -> {"picture", "text"} -> (offset, size) of the data."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                key, _, extension = member.name.rpartition(".")
                kind = (
                    "text"
                    if extension == "txt"
                    else "picture"
                    if f".{extension.lower()}" in SUFFIXES
                    else None
                )
                if member.isfile() and kind:
                    found.setdefault(key, {})[kind] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard} is no whole, uncompressed .tar file ({error}); make it again.") from error
    return found


def _slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _limited(paths: list[Path], limit: int) -> list[Path]:
    return paths[:limit] if limit else paths


def _first_line(data: bytes) -> str:
    return (data.decode("utf-8", "replace").strip().splitlines() or [""])[0]
