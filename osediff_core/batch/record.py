"""Records of a batch, one a picture: what became of it, and how one that fails leaves the others their turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ..errors import DiskFull, ImageError, OSEDiffError, amount, unforeseen
from ..interrupts import pass_on
from ..printable import sentence

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 3  # of other processes at a picture that ends them


@dataclass
class Result:
    """The outcome of one input; the JSON record.

    status: what the command does (restored, degraded), planned, skipped or failed; begun while it is at work. kind: the
    name of the error's class. Sizes are [width, height].
    """

    input: str
    output: str | None
    status: str = "begun"
    error: str | None = None
    kind: str | None = None
    seconds: float | None = None
    input_size: list[int] | None = None
    output_size: list[int] | None = None
    notes: list[str] | None = None


R = TypeVar("R", bound=Result)


class RunEnds(Exception):
    """What befell one picture would befall all that are left."""


def failed(result: R, message: str, kind: str = ImageError.__name__, debug: bool = False) -> R:
    """The result with its error, which is also logged."""
    logger.error("%s", message, exc_info=debug)
    result.status, result.error, result.kind = "failed", sentence(message), kind
    return result


def unfinished(name: str, attempts: int, how: str) -> str:
    """The sentence about a picture that ended each process that worked on it."""
    times = amount(attempts, "time")
    return f"{name} ended the process that worked on it, {times} ({how}); try it alone, or leave it out."


@contextmanager
def may_fail(result: Result, done: str, debug: bool) -> Iterator[None]:
    """Turns an error inside the block into a failed result, so that the next picture has its turn.

    done: what was to be done, as in "could not be restored". Raises RunEnds after an error that the others would meet,
    too, and KeyboardInterrupt for one that an interrupt has become.
    """
    try:
        yield
    except Exception as error:  # whatever one picture triggers must not cost the others
        pass_on(error)
        message = str(error)
        if not isinstance(error, OSEDiffError):
            message = (
                f"{result.input} could not be {done} ({unforeseen(error)}); add --debug for the details."
            )
        failed(result, message, type(error).__name__, debug)
        if isinstance(error, DiskFull):
            raise RunEnds from error
