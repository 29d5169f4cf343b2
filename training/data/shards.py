"""Pictures in .tar shards (webdataset's KEY.jpg with KEY.txt), read by position, so that any order is possible."""

from __future__ import annotations

import glob
import tarfile
from pathlib import Path

import numpy as np
from braceexpand import braceexpand

from osediff_core.errors import first_line
from osediff_core.images import READ_SUFFIXES

from .errors import DataError

Place = tuple[int, int]  # offset and size of a member's data, bytes


class Shards:
    """Members of .tar files, found once by their headers. A shard that ends too soon is used as far as it goes."""

    def __init__(self, shards: list[Path], limit: int = 0) -> None:
        self.shards, self.skipped = shards, {}
        self.keys: list[str] = []
        pictures, texts = [], []
        for number, shard in enumerate(shards):
            members, fault = _members(shard)
            if fault:
                self.skipped[str(shard)] = fault
            for key, found in members.items():
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
        try:
            return (
                None if size < 0 else first_text(_slice(self.shards[self.pictures[index, 0]], offset, size))
            )
        except OSError:
            return None


def find_shards(pattern: str) -> list[Path]:
    """The files of a path, a glob, a {000..012} list or a folder, in order. Raises DataError."""
    if Path(pattern).is_dir():
        pattern = f"{glob.escape(pattern)}/*.tar"
    try:
        patterns = [pattern] if Path(pattern).exists() else list(braceexpand(pattern))
    except ValueError:  # braces that do not pair belong to the name
        patterns = [pattern]
    found: dict[Path, None] = {}
    for one in patterns:
        paths = [Path(one)] if Path(one).exists() else [Path(path) for path in sorted(glob.glob(one))]
        if not paths:
            raise DataError(f"No .tar file fits {one}; mend data.sources.")
        found.update(dict.fromkeys(paths))
    return list(found)


def first_text(data: bytes) -> str:
    """The first line that is not empty."""
    return (data.decode("utf-8", "replace").strip().splitlines() or [""])[0]


def _members(shard: Path) -> tuple[dict[str, dict[str, Place]], str | None]:
    """key -> {"picture", "text"} -> place; and what is wrong with the shard, if anything is."""
    found: dict[str, dict[str, Place]] = {}
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                key, _, extension = member.name.rpartition(".")
                kind = _KINDS.get(f".{extension.lower()}")
                if member.offset_data + member.size > size:
                    return found, f"it ends within its member {member.name}"
                if kind and member.isfile() and not member.issparse():
                    found.setdefault(key, {})[kind] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        return found, f"it is no whole, uncompressed .tar file: {first_line(error)}"
    return found, None


_KINDS = {".txt": "text"} | dict.fromkeys(READ_SUFFIXES, "picture")


def _slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
