"""Interrupts: whether Ctrl-C or a request to end has come, also where its KeyboardInterrupt was lost on the way.

Native code that meets one raises an error of its own, and a broad handler takes that for what it expects. Whoever hears
signals (`osediff_core.cli.signals`) says so here; broad handlers ask before they explain an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

heard: list[
    int
] = []  # numbers of the signals, in the order in which they came; of this process, as signals are

waits: list[None] = []  # one entry for each block of `held` that is open


@contextmanager
def held() -> Iterator[None]:
    """A signal inside the block takes effect at its end, so that a file that was written is also reported."""
    waits.append(None)
    try:
        yield
    finally:
        waits.pop()
    pass_on()


def pass_on(error: BaseException | None = None) -> None:
    """Raises KeyboardInterrupt if one has come, or if `error` was raised because of one."""
    if heard or _is_one(error):
        raise KeyboardInterrupt from error


def _is_one(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 100:  # chains may be circular
        if isinstance(error, KeyboardInterrupt):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False
