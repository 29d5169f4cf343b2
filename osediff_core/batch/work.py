"""Work of a batch on one job: its picture, or all that lie in its file, with a record of each."""

from __future__ import annotations

from .job import Job, One, Work, task_of
from .record import Result


def work_on(job: Job, work: Work, one: One, results: list[Result], dry_run: bool = False) -> None:
    """Appends a record for each picture of the job, which `one` does.

    Those of a file that holds many come when its output is written: without it nothing is done. Raises what `one` does.
    """
    if job.holds_many:
        from .containers import work_inside

        work_inside(job, work, one, results, writes=work.writes and not dry_run)
        return
    result = work.kind(str(job.source), str(job.output) if work.writes else None)
    results.append(result)
    one(task_of(job), result)
