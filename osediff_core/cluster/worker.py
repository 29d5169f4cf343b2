"""Worker of a cluster: an actor that holds a model and does the jobs whose places it is told."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..batch.job import Job, Recipe, Task, from_text, is_done
from ..batch.record import Result, RunEnds, failed, unfinished
from ..batch.work import work_on
from ..errors import OSEDiffError, WorkerDied, unforeseen
from .attempts import WHOLE

if TYPE_CHECKING:
    import pyarrow

FOUND = "it was there already, from a worker that was lost before it could report"


class Worker:
    """Rows (index, job) become rows (index, records, node, attempt), job and records in JSON.

    What keeps every picture from being done, such as a model that cannot be read, is `stop` instead of records.
    """

    def __init__(self, recipe: Recipe, attempts: Any, most: int, threads: int | None) -> None:  # noqa: ANN401
        self.attempts, self.most = attempts, most
        self.done = recipe.open()
        self.stop: dict[str, str] | None = None
        try:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            self.done.load()
        except Exception as error:
            known = isinstance(error, OSEDiffError)
            said = str(error) if known else f"A worker could not load the model ({unforeseen(error)})."
            self.stop = {"stop": said, "kind": type(error).__name__ if known else WorkerDied.__name__}

    def __call__(self, rows: pyarrow.Table) -> pyarrow.Table:
        """One row a call is what the engine is asked for; more would do as well."""
        import pyarrow

        return pyarrow.Table.from_pylist([self._row(**row) for row in rows.to_pylist()])

    def _row(self, index: int, job: str) -> dict[str, Any]:
        attempt, records = 0, self.stop
        if records is None:
            deaths = self._ask("begin", index)
            attempt = 1 + sum(deaths.values())
            try:
                records = [asdict(one) for one in self._results(index, from_text(job), deaths)]
            except OSEDiffError as error:
                records = {"stop": str(error), "kind": type(error).__name__}
            self.attempts.end.remote(index)
        return {"index": index, "records": json.dumps(records), "node": platform.node(), "attempt": attempt}

    def _ask(self, method: str, *values: Any) -> Any:  # noqa: ANN401 - Ray's own
        import ray

        return ray.get(getattr(self.attempts, method).remote(*values))

    def _results(self, index: int, job: Job, deaths: dict[str, int]) -> list[Result]:
        work, results = self.done, []
        if work.writes and is_done(job.output):
            return [work.kind(str(job.source), str(job.output), work.done, notes=[FOUND])]
        if deaths.get(WHOLE, 0) >= self.most:
            return [self._given_up(work.kind(str(job.source), str(job.output) if work.writes else None))]

        def one(task: Task, result: Result) -> None:
            if job.holds_many:
                if deaths.get(task.name, 0) >= self.most:
                    self._given_up(result)
                    return
                self._ask("reach", index, task.name)
            try:
                work.work(task, result)
            except RunEnds:
                pass  # its record says so
            except SystemExit as error:  # of a library: it must not take the worker along
                said = f"could not be {work.done} (a library ended the process: {error}); leave it out."
                failed(result, f"{result.input} {said}", WorkerDied.__name__)
            if job.holds_many:
                self.attempts.reach.remote(index, WHOLE)

        try:
            work_on(job, work, one, results)
        except RunEnds:
            pass  # its record says so
        return results

    def _given_up(self, result: Result) -> Result:
        return failed(result, unfinished(result.input, self.most, "its worker died"), WorkerDied.__name__)
