"""Interrupts: whether Ctrl-C or a request to end has come, also where its KeyboardInterrupt was lost on the way.

Native code that meets one raises an error of its own, and a broad handler takes that for what it expects. Whoever hears
signals (`osediff_core.cli.signals`) says so here; broad handlers ask before they explain an error.
"""

from __future__ import annotations

heard: list[
    int
] = []  # numbers of the signals, in the order in which they came; of this process, as signals are


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
