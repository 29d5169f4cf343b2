"""A process that has everything imported, forks for each input, and judges what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from .families import Family, Input
from .seeds import Seeds

CPU, WALL = 60, 600  # seconds an input may take, of computing and altogether
MEMORY = 2 << 20  # kB that it may take beside what is imported
FAULTS = (
    "traceback",
    "unforeseen",
    "hang",
    "half-written file",
    "wrong exit code",
    "control character",
    "broken JSON",
    "memory",
)
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
_PICTURES = (".png", ".jpg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Found:
    """row: for the state. said: what it printed."""

    row: dict[str, Any]
    said: str


class Server:
    """Makes and runs inputs by family and number."""

    def __init__(self, families: Mapping[str, Family], seeds: Seeds, seed: int) -> None:
        self._families, self._seeds, self._seed = families, seeds, seed
        torch.set_num_threads(1)  # a fork has none of its parent's threads
        _import_all()
        self._memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(self, family: str, number: int) -> Found:
        """The input of that number, run and judged."""
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            made = self._families[family](Random(f"{self._seed}/{family}/{number}"), folder, self._seeds)
            argv = [word.replace(str(self._seeds.base.parent), "SEEDS") for word in made.argv]
            digest = hashlib.sha256(
                "\0".join(argv).encode("utf-8", "surrogateescape") + made.content
            ).hexdigest()
            before = {path for path in folder.rglob("*") if not path.is_dir()}
            status, usage = _run(made, folder)
            said = "".join(
                (folder / name).read_bytes().decode("utf-8", "replace") for name in (".stdout", ".stderr")
            )
            faults = _faults(made, folder, status, said, before)
            if status == -signal.SIGXCPU or status == -signal.SIGKILL:
                faults = ["hang"]
            if usage.ru_maxrss - self._memory > MEMORY:
                faults.append("memory")
            row = {
                "seed": self._seed,
                "family": family,
                "number": number,
                "digest": digest[:32],
                "status": status,
                "faults": faults,
                "cpu": round(usage.ru_utime + usage.ru_stime, 2),
            }
            return Found(row, f"{argv}\n{said}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _import_all() -> None:
    import diffusers
    import transformers
    from transformers import CLIPTextModel, CLIPTokenizerFast  # noqa: F401 - these are made when asked for

    from osediff_core import OneStepGenerator, dape, evaluate, pipeline  # noqa: F401
    from osediff_core.cli import main

    assert main and diffusers and transformers
    OneStepGenerator.load("tiny", device="cpu", dtype="fp32")  # what the libraries import only now


def _run(made: Input, folder: Path) -> tuple[int, resource.struct_rusage]:
    """(exit code, or minus the signal that ended it; what it took)."""
    child = os.fork()
    if child == 0:
        _become(made, folder)
    deadline, sent = time.monotonic() + WALL, made.signal is None
    start = time.monotonic()
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage
        now = time.monotonic()
        if not sent and now - start >= made.after:
            os.kill(child, made.signal or 0)
            sent = True
        if now > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _become(made: Input, folder: Path) -> None:
    """In the child: the command itself. Never returns."""
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command hears it itself
        resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 5))
        os.chdir(folder)
        (folder / ".stdin").write_bytes(made.stdin)
        for number, name, mode in (
            (0, ".stdin", os.O_RDONLY),
            (1, ".stdout", os.O_WRONLY),
            (2, ".stderr", os.O_WRONLY),
        ):
            os.dup2(os.open(name, mode | (os.O_CREAT | os.O_APPEND if number else 0), 0o600), number)
        sys.argv = ["osediff", *made.argv]
        runpy.run_module("osediff_core", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)


def _faults(made: Input, folder: Path, status: int, said: str, before: set[Path]) -> list[str]:
    faults = []
    if "Traceback (most recent call last)" in said:
        faults.append("traceback")
    if "unforeseen" in said:
        faults.append("unforeseen")
    if _half_written(folder, before):
        faults.append("half-written file")
    allowed = {0, 1, 2}
    if made.signal is not None:  # before the command's first line, the system ends it
        allowed = {0, _CODES[signal.Signals(made.signal)], *([] if said else [-made.signal])}
    missing = made.result is not None and status == 0 and not (folder / made.result).is_file()
    silent = status in (1, 2) and "error" not in said and "usage" not in said and '"failed"' not in said
    if status not in allowed or missing or silent:
        faults.append("wrong exit code")
    if any((ord(c) < 32 and c not in "\n\r\t") or c == "\x7f" for c in said) or "\nosediff: fine" in said:
        faults.append("control character")
    if (
        "--json" in made.argv
        and made.signal is None
        and not _is_json((folder / ".stdout").read_bytes(), status)
    ):
        faults.append("broken JSON")
    return faults


def _is_json(data: bytes, status: int) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return not data and status == 2


def _half_written(folder: Path, before: set[Path]) -> bool:
    """Whether a file that was not there is no whole picture or file of tensors, or is a forgotten temporary one."""
    own = {folder / name for name in (".stdin", ".stdout", ".stderr")}
    for path in {path for path in folder.rglob("*") if path.is_file()} - before - own:
        if path.name.endswith((".tmp", ".part")):
            return True
        try:
            if path.suffix.lower() in _PICTURES:
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                from safetensors.torch import load

                load(path.read_bytes())
        except Exception:  # whatever a reader says, it is not whole
            return True
    return False
