"""What a command hands back to the command line to be shown."""

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
