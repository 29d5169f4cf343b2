"""Results of a run, one a picture: what became of it, and how one that fails leaves the others their turn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DiskFull, ImageError, OSEDiffError, unforeseen
from ..interrupts import heard, pass_on
from ..printable import sentence
from .jobs import Job, Unreadable, is_done
from .outcome import DONE, FAILED, Outcome
from .signals import ending

logger = logging.getLogger(__name__)


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


class RunEnds(Exception):
    """What befell one picture would befall all that are left."""


def failed(result: Result, message: str, kind: str = ImageError.__name__, debug: bool = False) -> Result:
    """The result with its error, which is also logged."""
    logger.error("%s", message, exc_info=debug)
    result.status, result.error, result.kind = "failed", sentence(message), kind
    return result


def unreadable_results(found: Iterable[Unreadable], kind: type[Result] = Result) -> list[Result]:
    """Failed results, for inputs that give no job."""
    return [failed(kind(str(path), None), message) for path, message in found]


def skip_existing(jobs: Sequence[Job], results: list[Result], kind: type[Result] = Result) -> list[Job]:
    """The jobs whose output is not there yet; the others become results."""
    done = {job for job in jobs if is_done(job)}
    results += [kind(str(job.source), str(job.output), "skipped") for job in jobs if job in done]
    return [job for job in jobs if job not in done]


def ends_early(work: Callable[[], None]) -> bool:
    """Does the work; whether Ctrl-C or a request to end was heard meanwhile, whatever error it came out as."""
    try:
        work()
    except RunEnds:
        return False
    except BaseException as error:
        try:
            pass_on(error)
        except KeyboardInterrupt:
            return True
        raise
    return bool(heard)


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


def planned(outcome: Outcome, results: Sequence[Result]) -> Outcome:
    """The outcome of a dry run: one line for each picture that would be written."""
    lines = [
        f"{one.input} -> {one.output} ({'x'.join(map(str, one.output_size or ()))})"
        for one in results
        if one.status == "planned"
    ]
    return replace(outcome, lines=lines, data={**outcome.data, "dry_run": True})


def summary(
    command: str,
    done: str,
    results: list[Result],
    total: int,
    interrupted: bool,
    options: dict[str, Any],
    left_out: Iterable[Path] = (),
) -> Outcome:
    """All results in words and as JSON.

    done: the status of a success. options: what the record repeats of them. left_out: pictures of formats that are not
    read.
    """
    statuses = [done, "skipped", "failed"]
    if any(result.status == "planned" for result in results):
        statuses.insert(1, "planned")
    by_status = {s: [r for r in results if r.status == s] for s in statuses}
    counts = {name: len(found) for name, found in by_status.items()}
    left = total - sum(counts.values())
    word, code = ending()
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if interrupted:
        text += f", {left} not done: {word}, what was finished is kept"
    elif left:
        text += f", {left} not done"
    lines = [text, *(f"  failed: {result.input}" for result in by_status["failed"])]
    data: dict[str, Any] = {
        "command": command,
        **counts,
        "not_done": left,
        "interrupted": interrupted,
        "left_out": dict(Counter(path.suffix.lower() for path in left_out)),
        **options,
        "results": [asdict(result) for result in results if result.status in by_status],
    }
    status = code if interrupted else FAILED if counts["failed"] else DONE
    return Outcome(status, [], data, lines)
