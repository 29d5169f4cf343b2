"""Regular files: what a path must be before it is opened, as a pipe or a device is waited for without end."""

from __future__ import annotations

import os
import stat

from .errors import OSEDiffError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def irregular(path: str | os.PathLike[str]) -> str | None:
    """What lies there instead of a file ("a pipe"); None for a file. Raises OSError where there is nothing."""
    mode = stat.S_IFMT(os.stat(path).st_mode)
    return None if mode == stat.S_IFREG else _KINDS.get(mode, "no regular file")


def check_regular(
    path: str | os.PathLike[str], kind: type[OSEDiffError], remedy: str = "give a file"
) -> None:
    """Raises `kind` for a pipe, socket, device or folder, OSError where there is nothing."""
    found = irregular(path)
    if found:
        raise kind(f"{os.fspath(path)} is {found}, not a file; {remedy}.")
