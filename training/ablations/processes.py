"""Some commands at a time, each in a process of its own with one thread."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osediff_core.errors import OptionError, explained

_POLL = 0.2  # seconds
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_ERROR = re.compile(r"^ERROR: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """A command, whose output is added to the file `log`. name: as messages have it."""

    name: str
    command: tuple[str, ...]
    log: Path


def run_tasks(tasks: Sequence[Task], at_once: int, ended: Callable[[Task, str | None, float], None]) -> None:
    """Run all, `at_once` at a time.

    ended(task, why, seconds) is called as each ends, why it failed or None. Each gets a pipe as stdin, which ends when
    it shall stop, with this process or because of an exception here, Ctrl-C among them: then all are waited for.
    Raises OptionError where a log cannot be written.
    """
    waiting, running = deque(tasks), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                task = waiting.popleft()
                running[task] = (*_start(task), time.monotonic())
            time.sleep(_POLL)
            for task, (process, begin, started) in list(running.items()):
                if process.poll() is not None:
                    del running[task]
                    process.stdin.close()
                    ended(task, _failure(task, process.returncode, begin), time.monotonic() - started)
    finally:
        for process, *_ in running.values():
            process.stdin.close()
        for process, *_ in running.values():
            process.wait()


def _start(task: Task) -> tuple[subprocess.Popen, int]:
    """The process, and where in the log its output begins."""
    with explained(OptionError, f"The folder {task.log.parent} cannot be written", "choose another --out"):
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("ab") as log:
            begin = log.tell()  # the process moves it
            process = subprocess.Popen(
                task.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then tells each once
            )
            return process, begin


def _failure(task: Task, status: int, begin: int) -> str | None:
    """Why the task failed, as a sentence: its own last one, where it said one."""
    if status == 0:
        return None
    if status < 0:
        return f"It was ended by signal {-status} (9 is often too little memory)."
    try:
        text = task.log.read_bytes()[begin:].decode(errors="replace")
    except OSError as error:
        return f"It ended with status {status}, and its log cannot be read ({error.strerror})."
    said = _ERROR.findall(text) or text.strip().splitlines() or [f"It ended with status {status}."]
    return said[-1]
