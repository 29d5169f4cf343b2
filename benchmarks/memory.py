"""The memory of this process, in the one definition that all measurements have.

Memory is the most that the process held at once: all pages that were there, those of files that are mapped too, whoever
asked for them (Linux's VmHWM). On an accelerator it is the most that PyTorch's allocator had given out.
"""

from __future__ import annotations

from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def held(field: str = "VmRSS") -> int:
    """Bytes that the process holds now; of another field of /proc/self/status, what that says."""
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def restart_peak(device: str = "cpu") -> None:
    """Let `peak` count from now on."""
    if torch.device(device).type == "cpu":
        (_PROCESS / "clear_refs").write_text("5")
    else:
        getattr(torch, torch.device(device).type).reset_peak_memory_stats()


def peak(device: str = "cpu") -> int:
    """Bytes of memory, in the sense of this file, since `restart_peak` or the start of the process."""
    if torch.device(device).type == "cpu":
        return held("VmHWM")
    return getattr(torch, torch.device(device).type).max_memory_allocated()
