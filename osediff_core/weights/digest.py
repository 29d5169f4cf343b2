"""Hashes of files: that of one, in steps, and whether a file is a published one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError, explained
from .published import KNOWN_FILES, Digest, KnownFile

Kind = Literal["sha256", "git-sha1"]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Published:
    """digests: by kind. file: the published file that it is; namesake: the one whose name it has without being it."""

    digests: dict[str, Digest]
    file: KnownFile | None
    namesake: KnownFile | None


def digest_steps(path: Path, kind: Kind) -> Generator[tuple[int, int], None, Digest]:
    """The hash, in steps that yield (size, size). Raises OSError."""
    size = path.stat().st_size
    hasher = (
        hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    )
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            hasher.update(block)
            yield size, size
    return Digest(kind, hasher.hexdigest())


def digest_of(path: Path, kind: Kind = "sha256") -> Digest:
    """The hash of a file's content. Raises CheckpointError where it cannot be read."""
    steps = digest_steps(path, kind)
    with explained(CheckpointError, f"{path} cannot be read", "check its permissions"):
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value


def check_published(path: Path, known: Collection[KnownFile] = KNOWN_FILES) -> Published:
    """Which of the published files it is, by content. Raises CheckpointError where it cannot be read."""
    kinds: set[Kind] = {"sha256", *(file.digest.kind for file in known)}
    digests: dict[str, Digest] = {kind: digest_of(path, kind) for kind in kinds}
    file = next((one for one in known if one.digest == digests[one.digest.kind]), None)
    named = next((one for one in known if one.name == path.name), None)
    return Published(digests, file, None if named is file else named)
