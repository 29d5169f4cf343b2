"""Memory: how much is free, for choosing tiles by, and one sentence where it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from ..errors import OutOfMemory

_CGROUP = Path("/sys/fs/cgroup")
_UNKNOWN = 2**30  # for a device that does not say: little enough for any
_OUT_OF_MEMORY = (  # in lower case
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "bad allocation",
    "bad alloc",
    "bad_alloc",
)
_HELP = (
    "The {stage} stage ran out of memory; use a smaller target size, smaller tiles, fp16 or bf16, or another "
    "device."
)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a device at this moment: what the system reports, within the process's own limits."""
    if device.type == "cpu":
        return max(0, min(psutil.virtual_memory().available, *_container_limits(), *_process_limits()))
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    backend = getattr(torch, device.type, None)
    if backend is None or not hasattr(backend, "mem_get_info"):
        return _UNKNOWN
    free, _ = backend.mem_get_info(device)
    # PyTorch's allocator holds on to memory that it has given back to nobody
    return free + backend.memory_reserved(device) - backend.memory_allocated(device)


def release_memory(device: torch.device) -> None:
    """Lets the accelerator's allocator give back what it only holds on to."""
    backend = getattr(torch, device.type, None)
    if device.type != "cpu" and backend is not None and hasattr(backend, "empty_cache"):
        backend.empty_cache()


@contextmanager
def explain_out_of_memory(stage: str) -> Iterator[None]:
    """Turn any runtime's out-of-memory error into OutOfMemory with one sentence that says what helps."""
    try:
        yield
    except RuntimeError as error:  # accelerators raise a kind of it, the CPU's allocator a plain one
        if any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY):
            raise OutOfMemory(_HELP.format(stage=stage)) from error
        raise
    except MemoryError as error:
        raise OutOfMemory(_HELP.format(stage=stage)) from error


def _container_limits() -> list[int]:
    """Bytes that a Linux container (cgroup 2 or 1) still allows; file caches count as free, as they give way."""
    found = []
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((_CGROUP / limit).read_text())
            now = int((_CGROUP / used).read_text())
            lines = (_CGROUP / used).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such limit: "max", or no such file
            continue
        stat = dict(line.split() for line in lines)
        found.append(most - now + int(stat.get(cache, 0)))
    return found


def _process_limits() -> list[int]:
    """Bytes that `ulimit -v` still allows."""
    if sys.platform == "win32":
        return []
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if most == resource.RLIM_INFINITY else [most - psutil.Process().memory_info().vms]
