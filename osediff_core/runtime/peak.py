"""Peak of memory over a piece of work."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

_INTERVAL = 0.01  # seconds between two looks


class PeakMemory:
    """The most memory that was in use inside, beyond what was at the beginning: `bytes`, once it is left.

    Of CUDA what PyTorch had allocated; of any other device the process's memory, looked at a hundred times a second.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = threading.Event()
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return self
        self._process = psutil.Process()
        self._before = self._most = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self._device)
        else:
            self._done.set()
            self._watcher.join()
            most = self._most
        self.bytes = most - self._before

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._most = max(self._most, self._process.memory_info().rss)
