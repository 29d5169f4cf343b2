"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .regular import irregular


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` beside `path`, force it to the disk, then rename: a reader never sees half a file.

    A symbolic link is followed, so that the link stays and its target is replaced.
    Raises OSError (no such folder, no permission, disk full, ...); an older file at `path` is then untouched, and so
    is a pipe or device there, which a rename would replace.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """As `write_bytes_atomically`, of a file that is written inside the block."""
    target = Path(os.path.realpath(path))
    there = irregular(target) if target.exists() else None
    if there:
        raise FileExistsError(errno.EEXIST, f"there is {there}")
    # 40 characters, at most 160 bytes: with the rest it stays below the 255 bytes that a name may have.
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        # open's own permissions and not tempfile's: the file gets those that the user's umask gives, not 0600.
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable where the system can (not on Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the data itself is already on the disk
    finally:
        os.close(descriptor)
