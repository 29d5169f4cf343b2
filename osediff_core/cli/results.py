"""Results of a run as a whole: those that are known before it, how it ends, and all of them summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..batch.record import Result, RunEnds, failed
from ..interrupts import heard, pass_on
from .jobs import Job, Unreadable, is_done
from .outcome import DONE, FAILED, Outcome
from .signals import ending


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
