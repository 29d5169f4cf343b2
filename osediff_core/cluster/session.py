"""Session with Ray: one of this machine's own, which nobody else can reach, or with a cluster that runs already."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO, cast

from ..errors import OptionError, OSEDiffError, first_line

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

_OBJECT_STORE = 200 * 2**20  # bytes; places of pictures go through it, never pixels
_ANSWER = 10.0  # seconds
_LOOPBACK = ("127.", "::1")


@contextmanager
def private(cpus: int, gpus: int | None) -> Iterator[ModuleType]:
    """Ray on this machine alone: every socket on the loopback interface, a token of its own, gone at the end.

    Raises OptionError where Ray is not installed, OSEDiffError where it does not start or listens elsewhere.
    """
    folder = tempfile.mkdtemp(prefix="osediff-")
    # read when Ray is imported; the first is what makes it listen on the loopback interface alone
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_worker_niceness", "0")  # on a busy machine its 15 would stand still
    ray = _ray()
    try:
        with _explained("Ray does not start on this machine"), _own_signals():
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
        _check_sockets()
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined(address: str) -> Iterator[ModuleType]:
    """Ray of a cluster. Raises OptionError where Ray is not installed, OSEDiffError where nothing answers."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        logger.warning(
            "RAY_AUTH_MODE is not token: whoever reaches the cluster's ports can run any program there; see "
            "docs/cluster.md"
        )
    ray = _ray()
    try:
        with _explained(f"No Ray cluster answers at {address}"), _own_signals():
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError, ValueError where nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # lines on stderr that only its developers understand
    os.environ["RAY_DEDUP_LOGS"] = "0"  # what it holds back to say once, it would say at its end, on stdout
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # what is left of a run must not start another Ray
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise OptionError(
            f"--engine ray needs Ray ({first_line(error)}); install it: pip install 'osediff[cluster]'."
        ) from error
    return ray


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray would take SIGTERM for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _explained(finding: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise OSEDiffError(f"{finding} ({first_line(error)}); see docs/cluster.md.") from error


def _check_sockets() -> None:
    """Raises OSEDiffError if another machine could reach what was started: the switch is Ray's, and may go."""
    open_ones = sorted(listening())
    if open_ones:
        raise OSEDiffError(
            f"Ray listens on {', '.join(open_ones)}, which other machines can reach; install the version that "
            "osediff[cluster] asks for."
        )


def listening() -> set[str]:
    """The addresses, but for loopback ones, on which this process and those that it started wait for others."""
    import psutil

    me = psutil.Process()
    return {place for one in (me, *me.children(recursive=True)) for place in listening_of(one)}


def listening_of(process: psutil.Process) -> set[str]:
    """The same of one process; none of one that has ended."""
    import psutil

    try:
        places = [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return set()
    # "::ffff:127.0.0.1" is the loopback address, written for IPv6
    return {
        f"{place.ip}:{place.port}"
        for place in places
        if not place.ip.removeprefix("::ffff:").startswith(_LOOPBACK)
    }


class _Ours:
    """A stream that takes the words of the thread that made it: Ray's threads print, on stdout too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._owner = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return self._stream.write(text) if threading.get_ident() == self._owner else len(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else a stream has
        return getattr(self._stream, name)


@contextmanager
def without_its_words() -> Iterator[None]:
    """Inside, what Ray prints goes nowhere: only its developers understand it, and stdout is for results."""
    before, out = sys.stderr, sys.stdout
    before.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    stream = open(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)
    sys.stderr, sys.stdout = cast(TextIO, _Ours(stream)), cast(TextIO, _Ours(out))
    try:
        yield
    finally:
        stream.flush()
        sys.stderr, sys.stdout = before, out
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet() -> None:
    """Ray Data says what it does in logs of its own; ours is the progress, and stdout is for results."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
