"""Devices at work side by side: a process for each, which gets one picture after the other and says what came of it."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..batch.job import Job, Recipe, Task, Work
from ..batch.record import MOST_ATTEMPTS, Result, RunEnds, failed, unfinished
from ..batch.work import work_on
from ..errors import OSEDiffError, WorkerDied, unforeseen
from ..interrupts import held, pass_on
from .progress import Progress
from .signals import listening
from .streams import set_levels

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

logger = logging.getLogger("osediff_core")

Tell = Callable[[int, list[Result], str, int], None]  # number of the job, its records, node, attempt
_LONGEST_END = 15  # seconds that a process has to leave the picture it is at


def devices_of(text: str) -> list[str]:
    """The devices that `--device` names: one, several with commas between, or "all". Raises OptionError."""
    if text != "all" and "," not in text:
        return [text]
    from ..runtime.device import all_devices, parse_device

    named = all_devices() if text == "all" else [one.strip() for one in text.split(",")]
    return [str(parse_device(one)) for one in named]


def work_side_by_side(
    devices: Sequence[str],
    args: argparse.Namespace,
    recipe: Recipe,
    jobs: Sequence[Job],
    progress: Progress[Job],
    tell: Tell,
) -> None:
    """Has the jobs done, on each device a process; tells of each when it has come to its end.

    Raises what `Work.work` does, and WorkerDied for a process that ends before it has a picture.
    """
    pool = _Pool(args, recipe, jobs, progress, tell)
    try:
        for device in devices[: len(jobs)]:
            pool.start(device)
        pool.run()
    finally:
        pool.stop()


@dataclass
class _Worker:
    """index: of the job at work, if there is one. ready: has its model."""

    device: str
    process: BaseProcess
    talk: Connection
    ready: bool = False
    index: int | None = None


class _Pool:
    def __init__(
        self,
        args: argparse.Namespace,
        recipe: Recipe,
        jobs: Sequence[Job],
        progress: Progress[Job],
        tell: Tell,
    ) -> None:
        self.args, self.recipe, self.jobs, self.progress, self.tell = args, recipe, jobs, progress, tell
        self.waiting = deque(range(len(jobs)))
        self.attempts = [0] * len(jobs)
        self.workers: list[_Worker] = []

    def start(self, device: str) -> None:
        from multiprocessing import get_context

        context = get_context("spawn")  # a fork would share CUDA's state
        mine, theirs = context.Pipe()
        quiet = {name: getattr(self.args, name) for name in ("json", "json_lines", "quiet", "debug")}
        recipe = replace(self.recipe, device=device)  # type: ignore[type-var]
        process = context.Process(target=_serve, args=(theirs, recipe, quiet), daemon=True)
        with _deaf_to_ctrl_c():
            process.start()
        theirs.close()
        self.workers.append(_Worker(device, process, mine))

    def run(self) -> None:
        from multiprocessing.connection import wait

        while self.waiting or any(one.index is not None for one in self.workers):
            for worker in self.workers:
                if worker.ready and worker.index is None and self.waiting:
                    self._hand_out(worker)
            heard = wait([one.talk for one in self.workers], timeout=0.5)
            pass_on()
            for worker in [one for one in self.workers if one.talk in heard]:
                self._hear(worker)

    def _hand_out(self, worker: _Worker) -> None:
        worker.index = index = self.waiting.popleft()
        self.attempts[index] += 1
        try:
            worker.talk.send((self.jobs[index], self.args.debug))
        except OSError:
            pass  # it is dead, which is heard next

    def _hear(self, worker: _Worker) -> None:
        try:
            what, *said = worker.talk.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if what == "ready":
            worker.ready = True
        elif what == "log":
            level, text = said
            logger.log(level, "%s", text)
        elif what == "picture" and worker.index is not None:
            self.progress.at(worker.index).begin(*said)
        elif what == "step" and worker.index is not None:
            self.progress.at(worker.index).step(*said)
        elif what == "end" and worker.index is not None:
            self._end(worker.index, said[0])
            worker.index = None
        elif what == "stop":
            worker.index = None
            raise said[0]

    def _end(self, index: int, came: list[Result]) -> None:
        self.tell(index, came, platform.node(), self.attempts[index])

    def _bury(self, worker: _Worker) -> None:
        """Of a process that ended by itself: another takes its place, and its picture has other tries."""
        worker.process.join()
        self.workers.remove(worker)
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if worker.index is None:
            raise WorkerDied(
                f"The process on {worker.device} ended before its first picture ({how}); free memory there, or give "
                "fewer devices."
            )
        if self.attempts[worker.index] < MOST_ATTEMPTS:
            self.waiting.appendleft(worker.index)
        else:
            job, work = self.jobs[worker.index], self.recipe.open()
            result = work.kind(str(job.source), str(job.output) if work.writes else None)
            message = unfinished(result.input, MOST_ATTEMPTS, how)
            self._end(worker.index, [failed(result, message, WorkerDied.__name__)])
        if self.waiting:
            self.start(worker.device)

    def stop(self) -> None:
        """Ends the processes; a file that one has just written is still reported."""
        from multiprocessing.connection import wait

        busy = [one for one in self.workers if one.index is not None]
        for worker in self.workers:
            worker.process.terminate()
        until = time.monotonic() + _LONGEST_END
        while busy and time.monotonic() < until:
            heard = wait([one.talk for one in busy], timeout=0.5)
            for worker in [one for one in busy if one.talk in heard]:
                try:
                    what, *said = worker.talk.recv()
                except (EOFError, OSError):
                    busy.remove(worker)
                    continue
                if what == "end" and worker.index is not None:
                    self._end(worker.index, said[0])
        for worker in self.workers:
            worker.process.join(max(0.1, until - time.monotonic()))
            worker.process.kill()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started inside does not hear Ctrl-C, which a terminal sends to all: the parent ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Say(logging.Handler):
    """What is logged is for the parent to say."""

    def __init__(self, talk: Connection) -> None:
        super().__init__()
        self.talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        with held():
            self.talk.send(("log", record.levelno, self.format(record)))


def _serve(talk: Connection, recipe: Recipe, shown: dict[str, Any]) -> None:
    """The life of such a process."""
    os.dup2(2, 1)  # what libraries print is no result
    logger.addHandler(_Say(talk))
    logger.propagate = False
    set_levels(argparse.Namespace(**shown))
    try:
        with listening():
            _work(talk, recipe.open())
    except KeyboardInterrupt:
        pass
    except (EOFError, OSError):
        pass  # nobody is left to work for
    except Exception as error:
        stop = RunEnds() if isinstance(error, RunEnds) else error
        if not isinstance(stop, OSEDiffError | RunEnds):  # others may not be fit to be sent
            stop = WorkerDied(f"The process on {recipe.device} could not go on ({unforeseen(error)}).")
        talk.send(("stop", stop))


def _work(talk: Connection, work: Work) -> None:
    work.load()
    talk.send(("ready",))

    def step(done: int, total: int) -> None:
        pass_on()
        with held():
            talk.send(("step", done, total))

    while True:
        job, debug = talk.recv()
        results: list[Result] = []

        def one(task: Task, result: Result, debug: bool = debug) -> None:
            with held():
                talk.send(("picture", result.input))
            work.work(task, result, step, debug=debug)

        try:
            work_on(job, work, one, results)
        finally:
            if any(result.status != "begun" for result in results):
                with held():
                    talk.send(("end", results))
