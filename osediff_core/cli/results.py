"""Results of a run, one a picture: what became of it, and how one that fails leaves the others their turn."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import OSEDiffError, first_line
from .jobs import Job
from .outcome import DONE, FAILED, INTERRUPTED, Outcome

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Result:
    """The outcome of one input; the JSON record.

    status: what the command does (restored, degraded), skipped or failed; begun while it is at work. Sizes are
    [width, height].
    """

    input: str
    output: str | None
    status: str = "begun"
    error: str | None = None
    seconds: float | None = None
    input_size: list[int] | None = None
    output_size: list[int] | None = None
    notes: list[str] | None = None


def failed(result: Result, message: str, debug: bool = False) -> Result:
    """The result with its error, which is also logged."""
    logger.error("%s", message, exc_info=debug)
    result.status, result.error = "failed", message
    return result


def skip_existing(jobs: Sequence[Job], results: list[Result], kind: type[Result] = Result) -> list[Job]:
    """The jobs whose output is not there yet; the others become results."""
    results += [kind(str(j.source), str(j.output), "skipped") for j in jobs if os.path.isfile(j.output)]
    return [job for job in jobs if not os.path.isfile(job.output)]


def progress_bar(items: Sequence[T], doing: str) -> tqdm[T]:
    """The items, behind a bar where stderr is a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=doing, unit="picture", disable=None)


def ends_early(work: Callable[[], None]) -> bool:
    """Does the work; whether Ctrl-C ended it."""
    try:
        work()
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def may_fail(result: Result, done: str, debug: bool) -> Iterator[None]:
    """Turns an error inside the block into a failed result, so that the next picture has its turn.

    done: what was to be done, as in "could not be restored".
    """
    try:
        yield
    except OSEDiffError as error:
        failed(result, str(error), debug)
    except Exception as error:  # whatever one picture triggers must not cost the others
        text = f"{type(error).__name__}: {first_line(error)}"
        failed(result, f"{result.input} could not be {done} ({text}); add --debug for the details.", debug)


@contextmanager
def interrupt_waits() -> Iterator[None]:
    """Ctrl-C inside the block takes effect at its end, so that a file that was written is also reported."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt


def summary(
    command: str, done: str, results: list[Result], total: int, interrupted: bool, options: dict[str, Any]
) -> Outcome:
    """All results in words and as JSON. done: the status of a success. options: what the record repeats of them."""
    by_status = {s: [r for r in results if r.status == s] for s in (done, "skipped", "failed")}
    counts = {name: len(found) for name, found in by_status.items()}
    left = total - sum(counts.values())
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if interrupted:
        text += f", {left} not done: interrupted, what was finished is kept"
    text = "\n".join([text, *(f"  failed: {result.input}" for result in by_status["failed"])])
    data: dict[str, Any] = {
        "command": command,
        **counts,
        "not_done": left,
        "interrupted": interrupted,
        **options,
        "results": [asdict(result) for result in results if result.status in by_status],
    }
    status = INTERRUPTED if interrupted else FAILED if counts["failed"] else DONE
    return Outcome(status, text, data)
