"""Run of a batch on Ray Data: places of pictures go to actors that hold the model, records come back."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import errors
from ..batch.record import MOST_ATTEMPTS, RunEnds, failed
from ..batch.restorer import Settings, UpscaleResult
from ..errors import OptionError, OSEDiffError, WorkerDied, amount, first_line
from ..interrupts import pass_on
from . import session
from .attempts import Attempts
from .manifest import Manifest
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


def restore_on_ray(
    cluster: Cluster,
    settings: Settings,
    results: Sequence[UpscaleResult],
    manifest: Manifest,
    tell: Callable[[int, UpscaleResult], None],
) -> None:
    """Fills in the results, whose input and output are files; tells each, with its index, when it is known.

    Raises OptionError for what the machines cannot do, what keeps the model from being loaded, RunEnds after a picture
    whose error all would meet, and WorkerDied when no machine is left.
    """
    if not results:
        return
    with _session(cluster, settings) as ray:
        session.quiet()
        run = _Run(ray, cluster, settings, results, manifest, tell)
        try:
            run.all()
        finally:
            run.find()
            manifest.flush()
        run.check()


def _session(cluster: Cluster, settings: Settings) -> Any:  # noqa: ANN401 - a context
    if cluster.address is not None:
        return session.joined(cluster.address)
    gpus = _gpus(settings)
    least, most = cluster.actors or (1, 1)
    most = most if cluster.actors else max(1, int(gpus / (cluster.gpus or 1)))
    # of its own, CPUs are only a number by which actors find a place
    return session.private(max(least, most) + 1, gpus)


def _gpus(settings: Settings) -> int:
    """GPUs of this machine that CUDA may use; 0 for another device."""
    import torch

    return torch.cuda.device_count() if settings.device in ("auto", "cuda") else 0


class _Run:
    def __init__(
        self,
        ray: ModuleType,
        cluster: Cluster,
        settings: Settings,
        results: Sequence[UpscaleResult],
        manifest: Manifest,
        tell: Callable[[int, UpscaleResult], None],
    ) -> None:
        self.tell = tell
        self.ray, self.cluster, self.settings = ray, cluster, settings
        self.results, self.manifest = results, manifest
        self.cpus, self.gpus, self.least, self.most = self._share()
        self.told: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def _share(self) -> tuple[float, float, int, int]:
        """(CPUs of an actor, GPUs of an actor, actors at least, at most). Raises OptionError where these do not fit."""
        total = self.ray.cluster_resources()
        there = total.get("GPU", 0) if self.settings.device in ("auto", "cuda") else 0
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
        record, result = json.loads(row["record"]), self.results[row["index"]]
        if "stop" in record:
            raise getattr(errors, record["kind"], OSEDiffError)(record["stop"])
        if result.status != "begun":  # a block that was lost is made again
            return
        vars(result).update(record)
        self._report(result, row["node"], row["attempt"])
        self.tell(row["index"], result)
        if result.kind == errors.DiskFull.__name__:
            raise RunEnds

    def _report(self, result: UpscaleResult, node: str, attempt: int) -> None:
        for note in result.notes or ():
            logger.warning("%s: %s", result.input, note)
        if result.error:
            logger.error("%s", result.error)
        else:
            logger.info("%s -> %s (%s)", result.input, result.output, node)
        self.manifest.add(vars(result), node, attempt)

    def find(self) -> None:
        """Results that were written, but whose report was lost or still on its way."""
        from ..images import is_picture

        for index, result in enumerate(self.results):
            if result.status == "begun" and result.output is not None and is_picture(result.output):
                result.status, result.notes = "restored", [FOUND]
                self.manifest.add(vars(result), "", 0)
                self.tell(index, result)

    def check(self) -> None:
        """The check at the end: there is an answer for every picture."""
        for index, result in enumerate(self.results):
            if result.status == "begun":
                message = f"{result.input} came back from no worker; run the same command again."
                self.tell(index, failed(result, message, WorkerDied.__name__))

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
        rows = [
            {"index": index, "source": os.fsencode(one.input), "output": os.fsencode(one.output or "")}
            for index, one in enumerate(self.results)
        ]
        size = min(_MOST_ROWS, max(1, len(rows) // (self.most * _BLOCKS)))
        return data.from_items(rows, override_num_blocks=-(-len(rows) // size)).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(min_size=self.least, max_size=self.most),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            fn_constructor_args=(self.settings, attempts, self.cluster.attempts, self._threads()),
        )

    def _threads(self) -> int | None:
        """Of an actor on this machine's CPUs: what the plain command would use, shared."""
        if self.cluster.address is not None or self.gpus:
            return None
        import torch

        return max(1, torch.get_num_threads() // self.most)
