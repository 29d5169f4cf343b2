"""The outcome of a command, as it is handed back to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..printable import printable

DONE = 0
FAILED = 1  # something could not be done; what could be done was done
USAGE = 2  # the options make no sense; nothing was done
INTERRUPTED = 130  # 128 + SIGINT, as shells report it; after another signal, that one's


@dataclass(frozen=True)
class Outcome:
    """status: the exit code. lines: what was asked for, for people. data: for --json, made of plain JSON types.

    summary: lines that say what was done; --quiet leaves them out.
    """

    status: int
    lines: Sequence[str]
    data: dict[str, Any]
    summary: Sequence[str] = field(default=())

    @property
    def text(self) -> str:
        """All lines, fit to be printed."""
        return "\n".join(map(printable, [*self.lines, *self.summary]))


def megabytes(count: int) -> str:
    """A file's size for people. count: bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
