"""Run of a batch on Ray Data: places of pictures go to actors that hold the model, records come back.

Only what is on its way is in memory, beside the jobs themselves: records are told as they come.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import errors
from ..batch.job import Job, Recipe, as_text, done_among
from ..batch.record import MOST_ATTEMPTS, Result, RunEnds, failed
from ..errors import OptionError, OSEDiffError, WorkerDied, amount, first_line
from ..interrupts import pass_on
from . import session
from .attempts import Attempts
from .worker import FOUND, Worker

logger = logging.getLogger(__name__)

_MOST_ROWS = 50  # in a block: each costs 44 ms
_BLOCKS = 16  # for each actor, at least, where there are so many pictures
_GPU_ACTOR_CPUS = 0.25  # it waits for its GPU most of the time
_LOOK = 5.0  # seconds between two looks at the machines
_PATIENCE = 60.0  # seconds without any machine that could go on


@dataclass(frozen=True)
class Cluster:
    """address: of a cluster that runs, None for this machine alone. actors: at least and at most; None: one a GPU,
    or 1.

    gpus: of each actor; a part of one is shared, None is 1 where there are GPUs. attempts: at a picture that ends its
    worker. patience: seconds without a machine that could go on.
    """

    address: str | None = None
    actors: tuple[int, int] | None = None
    gpus: float | None = None
    attempts: int = MOST_ATTEMPTS
    patience: float = _PATIENCE


Tell = Callable[[int, list[Result], str, int], None]  # number of the job, its records, node, attempt


def run_on_ray(cluster: Cluster, recipe: Recipe, jobs: Sequence[Job], tell: Tell) -> None:
    """Has the jobs done, of files alone; tells of each when it is known.

    Raises OptionError for what the machines cannot do, what keeps the model from being loaded, RunEnds after a picture
    whose error all would meet, and WorkerDied when no machine is left.
    """
    if not jobs:
        return
    with _session(cluster, recipe) as ray:
        session.quiet()
        run = _Run(ray, cluster, recipe, jobs, tell)
        try:
            run.all()
        finally:
            run.find()
        run.check()


def _session(cluster: Cluster, recipe: Recipe) -> Any:  # noqa: ANN401 - a context
    if cluster.address is not None:
        return session.joined(cluster.address)
    gpus = _gpus(recipe)
    least, most = cluster.actors or (1, 1)
    most = most if cluster.actors else max(1, int(gpus / (cluster.gpus or 1)))
    # of its own, CPUs are only a number by which actors find a place
    return session.private(max(least, most) + 1, gpus)


def _gpus(recipe: Recipe) -> int:
    """GPUs of this machine that CUDA may use; 0 for another device."""
    import torch

    return torch.cuda.device_count() if recipe.device in ("auto", "cuda") else 0


class _Run:
    def __init__(
        self, ray: ModuleType, cluster: Cluster, recipe: Recipe, jobs: Sequence[Job], tell: Tell
    ) -> None:
        self.ray, self.cluster, self.recipe, self.jobs, self.tell = ray, cluster, recipe, jobs, tell
        self.work = recipe.open()
        self.known = bytearray(len(jobs))  # 1: told
        self.cpus, self.gpus, self.least, self.most = self._share()
        self.told: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def _share(self) -> tuple[float, float, int, int]:
        """(CPUs of an actor, GPUs of an actor, actors at least, at most). Raises OptionError where these do not fit."""
        total = self.ray.cluster_resources()
        there = total.get("GPU", 0) if self.recipe.device in ("auto", "cuda") else 0
        gpus = self.cluster.gpus if self.cluster.gpus is not None else float(there > 0)
        if gpus > there:
            raise OptionError(
                f"--gpus-per-actor {gpus:g}, but Ray has {amount(int(there), 'GPU')}; give less, or add machines."
            )
        cpus = _GPU_ACTOR_CPUS if gpus else 1.0
        room = int((total.get("CPU", 0) - cpus) / cpus)  # one place is left for Ray's own work
        if gpus:
            room = min(room, int(there / gpus))
        least, most = self.cluster.actors or (1, max(1, room) if self.cluster.address or gpus else 1)
        if least > room:
            raise OptionError(
                f"{amount(least, 'actor')} of {cpus:g} CPUs and {gpus:g} GPUs do not fit in the "
                f"{total.get('CPU', 0):g} CPUs and {there:g} GPUs there are, beside Ray's own work; give fewer "
                "(--actors), or add machines."
            )
        return cpus, gpus, least, min(most, room)

    def all(self) -> None:
        """Until the last record has come."""
        threading.Thread(target=self._consume, daemon=True).start()
        seen = time.monotonic()
        while True:
            pass_on()
            try:
                row = self.told.get(timeout=1)
            except queue.Empty:
                seen = self._look(seen)
                continue
            seen = time.monotonic()
            if row is None:
                return
            if isinstance(row, BaseException):
                raise OSEDiffError(
                    f"Ray ended the run ({first_line(row)}); run the same command again."
                ) from row
            self._take(row)

    def _look(self, seen: float) -> float:
        """When a machine that could go on was there last. Raises WorkerDied where that is too long ago."""
        if time.monotonic() - seen < _LOOK:
            return seen
        for node in self.ray.nodes():
            has = node["Resources"]
            if node["Alive"] and has.get("CPU", 0) >= self.cpus and has.get("GPU", 0) >= self.gpus:
                return time.monotonic()
        if time.monotonic() - seen > self.cluster.patience:
            raise WorkerDied(
                f"No machine that could go on was there for {self.cluster.patience:g} seconds; add one and run the "
                "same command again: what is done stays."
            )
        return seen

    def _take(self, row: dict[str, Any]) -> None:
        records = json.loads(row["records"])
        if "stop" in records:
            raise getattr(errors, records["kind"], OSEDiffError)(records["stop"])
        if self.known[row["index"]]:  # a block that was lost is made again
            return
        results = [self.work.kind(**one) for one in records]
        for result in results:
            for note in result.notes or ():
                logger.warning("%s: %s", result.input, note)
            if result.error:
                logger.error("%s", result.error)
            else:
                logger.info("%s -> %s (%s)", result.input, result.output or result.status, row["node"])
        self._tell(row["index"], results, row["node"], row["attempt"])
        if any(result.kind == errors.DiskFull.__name__ for result in results):
            raise RunEnds

    def _tell(self, index: int, results: list[Result], node: str = "", attempt: int = 0) -> None:
        self.known[index] = 1
        self.tell(index, results, node, attempt)

    def _unknown(self) -> Iterator[tuple[int, Job]]:
        return ((index, job) for index, job in enumerate(self.jobs) if not self.known[index])

    def find(self) -> None:
        """Results that were written, but whose report was lost or still on its way."""
        if not self.work.writes or all(self.known):
            return
        done = done_among([job.output for _, job in self._unknown()])
        for index, job in self._unknown():
            if job.output in done:
                result = self.work.kind(str(job.source), str(job.output), self.work.done, notes=[FOUND])
                self._tell(index, [result])

    def check(self) -> None:
        """The check at the end: there is an answer for every picture."""
        for index, job in self._unknown():
            message = f"{job.source} came back from no worker; run the same command again."
            self._tell(index, [failed(self.work.kind(str(job.source), None), message, WorkerDied.__name__)])

    def _consume(self) -> None:
        """In a thread of its own, so that the main one hears Ctrl-C and misses workers."""
        try:
            for table in self._dataset().iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for row in table.to_pylist():
                    self.told.put(row)
            self.told.put(None)
        except BaseException as error:
            self.told.put(error)

    def _dataset(self) -> Any:  # noqa: ANN401 - Ray's
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        data, ray = self.ray.data, self.ray
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        kept = {"max_restarts": -1, "max_task_retries": -1}
        attempts = ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=here, **kept).remote()
        size = min(_MOST_ROWS, max(1, len(self.jobs) // (self.most * _BLOCKS)))
        blocks = [self._block(start, size) for start in range(0, len(self.jobs), size)]
        return data.from_arrow(blocks).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(min_size=self.least, max_size=self.most),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            fn_constructor_args=(self.recipe, attempts, self.cluster.attempts, self._threads()),
        )

    def _block(self, start: int, size: int) -> Any:  # noqa: ANN401 - pyarrow's
        """Rows (index, job) of so many jobs; as a table, since a row as an object would take ten times its bytes."""
        import pyarrow

        jobs = self.jobs[start : start + size]
        return pyarrow.table(
            {"index": range(start, start + len(jobs)), "job": [as_text(job) for job in jobs]}
        )

    def _threads(self) -> int | None:
        """Of an actor on this machine's CPUs: what the plain command would use, shared."""
        if self.cluster.address is not None or self.gpus:
            return None
        import torch

        return max(1, torch.get_num_threads() // self.most)
