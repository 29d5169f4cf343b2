"""The outcome of a command, as it is handed back to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DONE = 0
FAILED = 1  # something could not be done; what could be done was done
USAGE = 2  # the options make no sense; nothing was done
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True)
class Outcome:
    """status: the exit code. text: for people. data: for --json, made of plain JSON types."""

    status: int
    text: str
    data: dict[str, Any]


def megabytes(count: int) -> str:
    """A file's size for people. count: bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
