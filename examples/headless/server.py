"""Runs ComfyUI as a process of its own, with this pack and no other, in a folder of its own."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

PACK = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-OSEDiff"  # the folder's name below custom_nodes
_POLL = 0.25  # seconds
_PATIENCE = 10  # seconds a server gets to end by itself
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of the terminal
# On Linux the system ends the process where this one is killed and so cannot.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(Exception):
    """ComfyUI did not start; one sentence says why, with the last lines of its log."""


class ComfyServer:
    """A ComfyUI on a free port of this machine, running while the `with` block is.

        with ComfyServer(fetch_comfyui()) as server:
            client = ComfyClient(server.url)

    tree: ComfyUI's folder; the interpreter must have its requirements. base: where models/, input/, output/ and the
    log are; None is a temporary folder that goes when the server stops. arguments: more for ComfyUI's command line.
    cpu: True computes without an accelerator; None does where there is none. environment: on top of this process's.
    """

    def __init__(
        self,
        tree: Path,
        base: Path | None = None,
        *,
        arguments: Sequence[str] = (),
        cpu: bool | None = None,
        environment: Mapping[str, str] | None = None,
        startup_seconds: float = 300,
    ) -> None:
        self.tree = tree
        self.base = (base or Path(tempfile.mkdtemp(prefix="comfyui-"))).resolve()
        self.log_file = self.base / "comfyui.log"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._temporary = base is None
        self._arguments = list(arguments)
        self._cpu = not _has_accelerator() if cpu is None else cpu
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._startup_seconds = startup_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All that ComfyUI has said so far."""
        if not self.log_file.is_file():
            return ""
        return _COLOURS.sub("", self.log_file.read_text(encoding="utf-8", errors="replace"))

    def start(self) -> None:
        """Returns when ComfyUI answers. Raises ServerError if it ends before or takes too long."""
        atexit.register(self.stop)  # the process must not outlive this one, whatever happens here
        self._place_pack()
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.tree,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if _LIBC else None,
            )
        try:
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the process, by force if it does not end by itself. May be called again."""
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def _command(self) -> list[str]:
        line = [sys.executable, "main.py", "--port", str(self.port), "--base-directory", str(self.base)]
        line += ["--database-url", f"sqlite:///{self.base / 'comfyui.db'}", "--disable-api-nodes"]
        line += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME]
        return line + ["--cpu"] * self._cpu + self._arguments

    def _place_pack(self) -> None:
        for name in ("custom_nodes", "models", "input", "output"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        place = self.base / "custom_nodes" / PACK_NAME
        if place.exists():
            return
        try:
            place.symlink_to(PACK, target_is_directory=True)
        except OSError:  # Windows allows links to some users only
            shutil.copytree(PACK, place, ignore=shutil.ignore_patterns(".*", "__pycache__", "demo_output"))

    def _await_answer(self) -> None:
        end = time.monotonic() + self._startup_seconds
        while time.monotonic() < end:
            if not self.running:
                raise ServerError(f"ComfyUI ended while it started; the end of its log:\n{self._log_tail()}")
            try:
                _NO_PROXY.open(self.url + "/system_stats", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(_POLL)
        seconds = f"{self._startup_seconds:g} seconds"
        raise ServerError(f"ComfyUI did not answer within {seconds}; the end of its log:\n{self._log_tail()}")

    def _log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log().splitlines()[-lines:])


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _has_accelerator() -> bool:
    import torch

    xpu = getattr(torch, "xpu", None)
    return (
        torch.cuda.is_available()
        or torch.backends.mps.is_available()
        or (xpu is not None and xpu.is_available())
    )
