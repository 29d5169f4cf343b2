"""What this machine computes at best, by the two operations that the networks are made of."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

_SECONDS = 1.5  # a measurement


def peaks(device: str, dtype: torch.dtype) -> dict[str, float]:
    """{"matmul", "conv"}: GFLOP/s, the best of repeated runs; 2 operations a multiply-add."""
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    batch, channels, side = (1, 320, 64) if device == "cpu" else (16, 320, 64)
    x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
    w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    with torch.inference_mode():
        return {
            "matmul": _best(lambda: a @ b, 2 * n**3, device),
            "conv": _best(lambda: F.conv2d(x, w, padding=1), 18 * batch * channels**2 * side**2, device),
        }


def _best(compute: Callable[[], torch.Tensor], operations: int, device: str) -> float:
    best, end = float("inf"), time.perf_counter() + _SECONDS
    compute()
    while time.perf_counter() < end:
        start = time.perf_counter()
        compute()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return operations / best / 1e9
