"""Results of a run as a whole: those that are known before it, how it ends, and all of them summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..batch.job import Job, done_among
from ..batch.places import STREAM, Place
from ..batch.record import Result, RunEnds, failed
from ..interrupts import heard, pass_on
from .jobs import Unreadable
from .outcome import DONE, FAILED, Outcome
from .signals import ending


class Results(list[Result]):
    """Those of a run; where not all are wanted at its end, failures alone are kept, and the others counted.

    more: how many more pictures there were than jobs, as a file may hold many.
    """

    def __init__(self, kept: bool = True) -> None:
        super().__init__()
        self.kept = kept
        self.counts: Counter[str] = Counter()
        self.more = 0

    def add(self, found: Iterable[Result]) -> None:
        """What came of one job; what was only begun counts as not done."""
        ended = [one for one in found if one.status != "begun"]
        self.counts.update(one.status for one in ended)
        self.extend(one for one in ended if self.kept or one.status == "failed")
        self.more += max(0, len(ended) - 1)


def unreadable_results(found: Iterable[Unreadable], results: Results, kind: type[Result] = Result) -> None:
    """Failed results, for inputs that give no job."""
    for path, message in found:
        results.add([failed(kind(str(path), None), message)])


def skip_existing(jobs: Sequence[Job], results: Results, kind: type[Result] = Result) -> list[Job]:
    """The jobs whose output is not there yet; the others become results."""
    done: set[Place] = done_among([job.output for job in jobs if job.output != STREAM])
    for job in jobs:
        if job.output in done:
            results.add([kind(str(job.source), str(job.output), "skipped")])
    return [job for job in jobs if job.output not in done]


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
    results: Results,
    total: int,
    interrupted: bool,
    options: dict[str, Any],
    left_out: Iterable[Place] = (),
) -> Outcome:
    """All results in words and as JSON.

    done: the status of a success. total: the number of jobs. options: what the record repeats of them. left_out:
    pictures of formats that are not read.
    """
    statuses = [done, "skipped", "failed"]
    if results.counts["planned"]:
        statuses.insert(1, "planned")
    counts = {name: results.counts[name] for name in statuses}
    left = total + results.more - sum(counts.values())
    word, code = ending()
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if interrupted:
        text += f", {left} not done: {word}, what was finished is kept"
    elif left:
        text += f", {left} not done"
    lines = [text, *(f"  failed: {result.input}" for result in results if result.status == "failed")]
    data: dict[str, Any] = {
        "command": command,
        **counts,
        "not_done": left,
        "interrupted": interrupted,
        "left_out": dict(Counter(path.suffix.lower() for path in left_out)),
        **options,
        "results": [asdict(result) for result in results],
    }
    status = code if interrupted else FAILED if counts["failed"] else DONE
    return Outcome(status, [], data, lines)
