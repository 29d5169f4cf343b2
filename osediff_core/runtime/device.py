"""Dtype and device: what names mean, what "auto" chooses, and what happens when half precision overflows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError, OptionError, OutOfMemory

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LONG_NAMES = {"float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float": "fp32"}


def parse_device(device: str | torch.device = "auto") -> torch.device:
    """The device meant by "auto", "cpu", "cuda", "cuda:1", "mps", "xpu" or a torch.device.

    "auto" is the first accelerator that this PyTorch can use, else the CPU.
    Raises OptionError for an unknown device or one that is not there.
    """
    if device == "auto":
        for kind in ("cuda", "xpu", "mps"):
            if _available(kind):
                return torch.device(kind)
        return torch.device("cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"Device {device!r} is unknown; use auto, cpu, cuda, mps or xpu.") from error
    if parsed.type == "meta" or not _available(parsed.type) or not _has_index(parsed):
        raise OptionError(
            f"Device '{parsed}' is not available to this PyTorch ({torch.__version__}); use --device cpu, or "
            "install a PyTorch built for that device."
        )
    return parsed


def parse_dtype(dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """The dtype meant by "auto", "fp32", "fp16", "bf16" (or a torch.dtype) on a device.

    "auto": fp16 on an accelerator (as the official code; half the memory), fp32 on the CPU, where results should not
    depend on which one it is; one with bf16 instructions is faster in bf16 (docs/speed.md), others are slower in it.
    Raises OptionError for anything else.
    """
    if dtype == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.float16
    name = str(dtype).removeprefix("torch.")
    name = _LONG_NAMES.get(name, name)
    if name not in DTYPES:
        raise OptionError(f"Precision {str(dtype)!r} is unknown; use auto, fp32, fp16 or bf16.")
    return DTYPES[name]


def _available(kind: str) -> bool:
    if kind == "cpu":
        return True
    if kind == "mps":
        return torch.backends.mps.is_available()
    backend = getattr(torch, kind, None)
    return bool(backend is not None and hasattr(backend, "is_available") and backend.is_available())


def _has_index(device: torch.device) -> bool:
    if device.index is None:
        return True
    if device.type in ("cpu", "mps"):
        return device.index == 0
    return device.index < getattr(torch, device.type).device_count()


@contextmanager
def weights_in_fp32(module: nn.Module) -> Iterator[None]:
    """Inside this context the module's floating-point weights are fp32; afterwards the old tensors are back.

    Costs the module's fp32 size in memory for as long as it lasts.
    """
    tensors = [*module.parameters(), *module.buffers()]
    kept = [(t, t.data) for t in tensors if t.is_floating_point() and t.dtype != torch.float32]
    try:
        # Tensors made in inference mode cannot stand in for a parameter's data.
        with torch.inference_mode(False):
            for tensor, data in kept:
                tensor.data = data.float()
        yield
    finally:
        with torch.inference_mode(False):
            for tensor, data in kept:
                tensor.data = data


@runtime_checkable
class HasFp32(Protocol):
    """A part that can compute in fp32 for a while, whatever the dtype its weights are kept in."""

    dtype: torch.dtype

    def fp32(self) -> AbstractContextManager[None]:
        """Inside this context the part computes with its weights in fp32; afterwards they are as before."""
        ...


def run_stage(name: str, part: HasFp32, stage: Callable[[], Tensor]) -> Tensor:
    """Run one stage of the generator; where half precision gives NaN or infinity, run it again in fp32.

    name: for the log and the error ("encode", "denoise", …). part: the port whose weights the stage uses.
    While gradients are recorded the result is not looked at: a trainer has its own loss scaling, and weights
    must not change under a recorded graph.
    Raises NonFiniteError if fp32 does not help, OutOfMemory if the device's memory does not suffice.
    """
    with clear_memory_errors(name):
        result = stage()
        if result.requires_grad or bool(torch.isfinite(result).all()):
            return result
        if part.dtype != torch.float32:
            logger.warning(
                "%s gave NaN or infinity in %s; running it again in fp32", name, short_name(part.dtype)
            )
            del result
            with part.fp32():
                result = stage()
            if bool(torch.isfinite(result).all()):
                return result
    raise NonFiniteError(
        f"The {name} stage gives NaN or infinity even in fp32; check that the image has no such values, and "
        "that base and weights are undamaged and belong together."
    )


def short_name(dtype: torch.dtype) -> str:
    """torch.float16 -> "fp16" and so on."""
    names: Iterable[str] = (name for name, value in DTYPES.items() if value == dtype)
    return next(iter(names), str(dtype))


@contextmanager
def clear_memory_errors(stage: str) -> Iterator[None]:
    """Turn any runtime's out-of-memory error into OutOfMemory with one sentence that says what helps."""
    try:
        yield
    except RuntimeError as error:  # accelerators raise a kind of it, the CPU's allocator a plain one
        if any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY):
            raise OutOfMemory(_HELP.format(stage=stage)) from error
        raise
    except MemoryError as error:
        raise OutOfMemory(_HELP.format(stage=stage)) from error


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
