"""Standard streams that may be closed, full, or lose their reader: what is said there costs no work."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TextIO

from ..printable import printable


def open_missing() -> None:
    """A stream that was closed at the start, as under cron or pythonw, becomes one that goes nowhere.

    Its number must not be free either: the next file that is opened would get it, and with it what native code prints.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def say(text: str) -> OSError | None:
    """Prints to stdout, at once; what its encoding lacks as escapes. Gives back why that failed.

    A reader that left, as `head` does, wants no more: that is no failure. Afterwards nothing more is printed there.
    """
    return _write(sys.stdout, text)


def complain(text: str) -> None:
    """Prints to stderr, beside a progress bar; where that fails there is nobody to be told."""
    if "tqdm" in sys.modules:
        with sys.modules["tqdm"].tqdm.external_write_mode(file=sys.stderr):
            _write(sys.stderr, text)
    else:
        _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> OSError | None:
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _silence(stream)
        return error
    except ValueError:  # closed by somebody else
        pass
    return None


def finish() -> None:
    """Whatever a library or argparse left to be written: here, as at exit Python would complain of a stream."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _silence(stream)


def _silence(stream: TextIO) -> None:
    """Lets what waits in the stream, and all that follows, go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()
    except (OSError, ValueError):
        pass


class Handler(logging.Handler):
    """Log records as lines on stderr: one for each record, and one for each line of a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a message that cannot be shown must not cost the work."""
        try:
            lead = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
            lines = [f"osediff: {lead}{record.getMessage()}"]
            if record.exc_info:
                lines += logging.Formatter().formatException(record.exc_info).splitlines()
            complain("\n".join(map(printable, lines)))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """There is nowhere to say it."""


def set_levels(shown: argparse.Namespace) -> None:
    """What is logged, as options of every command say."""
    logging.getLogger("osediff_core").setLevel(
        logging.DEBUG if shown.debug else logging.WARNING if shown.quiet else logging.INFO
    )
    if not shown.debug:
        # what these say about a damaged file is in our own sentence
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        logging.getLogger("PIL").setLevel(logging.ERROR)
