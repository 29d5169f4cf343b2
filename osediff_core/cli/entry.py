"""The frame of a command line: what it does on stderr, and errors as one sentence and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from ..errors import OptionError, OSEDiffError
from ..interrupts import pass_on
from .outcome import DONE, FAILED, USAGE
from .signals import ending

T = TypeVar("T")


def run_main(
    work: Callable[[], int | None],
    log: logging.Logger,
    *,
    interrupted: str | None = None,
    level: int = logging.INFO,
    line: str = "%(message)s",
) -> int:
    """Logs to stderr, runs `work`, and returns its exit code (None is 0), or 1 failed, 2 a wrong option, 130 Ctrl-C.

    log: says the errors. interrupted: what is said of Ctrl-C. level and line: of all that is logged.
    """
    logging.basicConfig(level=level, format=line, stream=sys.stderr)

    def tell(_: BaseException, status: int, sentence: str) -> int:
        log.error("%s", sentence)
        return status

    return explained(work, tell, interrupted) or DONE


def explained(
    work: Callable[[], T], tell: Callable[[BaseException, int, str], T], interrupted: str | None = None
) -> T:
    """The result of `work`, or of `tell(error, exit code, sentence)` for an error that has an explanation."""
    try:
        try:
            return work()
        except Exception as error:
            pass_on(error)
            raise
    except OSEDiffError as error:
        return tell(error, USAGE if isinstance(error, OptionError) else FAILED, str(error))
    except KeyboardInterrupt as error:
        word, status = ending()
        return tell(error, status, interrupted or word)
