"""Ctrl-C and SIGTERM end a run after its step, so that a checkpoint is saved first."""

from __future__ import annotations

import logging
import signal

log = logging.getLogger("training")


class StopSignals:
    """Inside this context the first signal sets `received`; the second one is the usual interrupt."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> StopSignals:
        self._before = {s: signal.signal(s, self._receive) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _receive(self, number: int, _frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        log.info("%s: saving a checkpoint after this step", signal.Signals(number).name)
        self.received = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
