"""Signals that end a run: Ctrl-C and requests to end, as KeyboardInterrupt once a file that is written is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..interrupts import heard, waits

# Windows has no SIGHUP
WORDS = {
    getattr(signal, name): word
    for name, word in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "terminated"))
    if hasattr(signal, name)
}


def ending() -> tuple[str, int]:
    """The word and the exit code for the signal that came first: 128 and its number, as shells report it."""
    number = heard[0] if heard else signal.SIGINT
    return WORDS[signal.Signals(number)], 128 + number


@contextmanager
def listening() -> Iterator[None]:
    """Inside, these signals raise KeyboardInterrupt; those that are ignored, as by nohup, stay so."""
    heard.clear()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main one alone
        yield
        return
    before = {number: signal.getsignal(number) for number in WORDS}
    mine = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in mine:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        heard.clear()


def _raise(number: int, _: FrameType | None) -> None:
    heard.append(number)
    if not waits:
        raise KeyboardInterrupt
