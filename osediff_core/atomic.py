"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from .regular import irregular


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` beside `path`, force it to the disk, then rename: a reader never sees half a file.

    A symbolic link is followed, so that the link stays and its target is replaced.
    Raises OSError (no such folder, no permission, disk full, ...); an older file at `path` is then untouched, and so
    is a pipe or device there, which a rename would replace.
    """
    target = Path(os.path.realpath(path))
    there = irregular(target) if target.exists() else None
    if there:
        raise FileExistsError(errno.EEXIST, f"there is {there}")
    # 40 characters, at most 160 bytes: with the rest it stays below the 255 bytes that a name may have.
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    # os.open and not tempfile: the file gets the permissions that the user's umask gives, not 0600.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
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
