"""Worker of a cluster: an actor that holds a model and restores the pictures whose places it is told."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..batch.record import RunEnds, failed, unfinished
from ..batch.restorer import Restorer, Settings, Task, UpscaleResult
from ..errors import OSEDiffError, WorkerDied, unforeseen

if TYPE_CHECKING:
    import pyarrow

FOUND = "it was there already, from a worker that was lost before it could report"


class Worker:
    """Rows (index, source, output, names in bytes) become rows (index, record, node, attempt), record in JSON.

    What keeps every picture from being restored, such as a model that cannot be read, is a record with `stop`.
    """

    def __init__(self, settings: Settings, attempts: Any, most: int, threads: int | None) -> None:  # noqa: ANN401
        self.attempts, self.most = attempts, most
        self.restorer = Restorer(settings)
        self.stop: dict[str, str] | None = None
        try:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            self.restorer.load()
        except Exception as error:
            known = isinstance(error, OSEDiffError)
            said = str(error) if known else f"A worker could not load the model ({unforeseen(error)})."
            self.stop = {"stop": said, "kind": type(error).__name__ if known else WorkerDied.__name__}

    def __call__(self, rows: pyarrow.Table) -> pyarrow.Table:
        """One row a call is what the engine is asked for; more would do as well."""
        import pyarrow

        return pyarrow.Table.from_pylist([self._row(**row) for row in rows.to_pylist()])

    def _row(self, index: int, source: bytes, output: bytes) -> dict[str, Any]:
        attempt, record = 0, self.stop
        if record is None:
            attempt = self._ask(self.attempts.begin, index)
            record = asdict(self._restored(os.fsdecode(source), os.fsdecode(output), attempt))
            self._ask(self.attempts.end, index)
        return {
            "index": index,
            "record": json.dumps(record),
            "node": platform.node(),
            "attempt": attempt,
        }

    def _ask(self, method: Any, index: int) -> Any:  # noqa: ANN401 - Ray's own
        import ray

        return ray.get(method.remote(index))

    def _restored(self, source: str, output: str, attempt: int) -> UpscaleResult:
        from ..images import is_picture, read_file, write_file

        result = UpscaleResult(source, output)
        if is_picture(output):
            result.status, result.notes = "restored", [FOUND]
            return result
        if attempt > self.most:
            message = unfinished(source, self.most, "its worker died")
            return failed(result, message, WorkerDied.__name__)
        task = Task(source, Path(output), partial(read_file, source), partial(write_file, Path(output)))
        try:
            self.restorer.work(task, result)
        except RunEnds:
            pass  # its record says so
        except SystemExit as error:  # of a library: it must not take the worker along
            message = f"{source} could not be restored (a library ended the process: {error}); leave it out."
            failed(result, message, WorkerDied.__name__)
        return result
