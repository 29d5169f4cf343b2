"""Memory that is mapped from files: read ahead of its use, and given back after it."""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch import Tensor

_STEP = 2**26  # bytes that the system is asked to read at a time
_SHARE = 0.5  # of the free memory, beyond which reading ahead would push out what is still to be used
_MAPS = Path("/proc/self/maps")


@dataclass(frozen=True)
class Mapped:
    """Address ranges of this process that files are mapped to, in order; none where the system does not tell."""

    starts: list[int]
    stops: list[int]

    @classmethod
    def now(cls) -> Mapped:
        """As they are at this moment."""
        starts, stops = [], []
        try:
            lines = _MAPS.read_text(errors="replace").splitlines() if sys.platform == "linux" else []
        except OSError:
            lines = []
        for line in lines:
            span, _, _, _, inode = line.split(maxsplit=5)[:5]
            if inode != "0":
                start, stop = (int(text, 16) for text in span.split("-"))
                starts.append(start)
                stops.append(stop)
        return cls(starts, stops)

    def let_go(self, tensor: Tensor) -> None:
        """Give the pages of a mapped tensor back; what is asked for again is read from the file again.

        Nobody may have written to it. Of any other tensor nothing changes.
        """
        if tensor.device.type != "cpu" or not self.starts or not tensor.is_contiguous():
            return
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        at = bisect.bisect_right(self.starts, start) - 1
        if at < 0 or stop > self.stops[at]:
            return
        page = mmap.PAGESIZE
        first, last = (
            -(-start // page) * page,
            stop // page * page,
        )  # neighbours keep the pages that they share
        if first < last:
            ctypes.CDLL(None).madvise(
                ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED
            )


def read_ahead(paths: Iterable[Path]) -> None:
    """Have the system read files into its cache, beside whatever this process does meanwhile.

    Nothing is waited for, nothing fails, and nothing is read where memory is short or the system takes no such wishes.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    wanted = [path for path in paths if path.is_file()]
    if sum(path.stat().st_size for path in wanted) > psutil.virtual_memory().available * _SHARE:
        return
    threading.Thread(target=_read, args=(wanted,), daemon=True, name="read ahead").start()


def _read(paths: list[Path]) -> None:
    for path in paths:
        try:
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, _STEP):
                    os.posix_fadvise(file.fileno(), start, _STEP, os.POSIX_FADV_WILLNEED)
        except OSError:  # whoever needs the file will say so
            return
