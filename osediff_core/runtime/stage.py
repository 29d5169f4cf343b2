"""A stage of the generator under guard: what overflows in half precision is computed again in fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from .device import short_name
from .memory import explain_out_of_memory

logger = logging.getLogger(__name__)


@runtime_checkable
class HasFp32(Protocol):
    """A network that can compute in fp32 for a while, whatever the dtype its weights are kept in."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that its weights are kept in at this moment."""
        ...

    def fp32(self) -> AbstractContextManager[None]:
        """Inside this context it computes with its weights in fp32; afterwards they are as before."""
        ...


def run_stage(name: str, part: HasFp32, stage: Callable[[], Tensor]) -> Tensor:
    """Run one stage of the generator; where half precision gives NaN or infinity, run it again in fp32.

    name: for the log and the error ("encode", "denoise", …). part: the port whose weights the stage uses.
    While gradients are recorded the result is not looked at: a trainer has its own loss scaling, and weights
    must not change under a recorded graph.
    Raises NonFiniteError if fp32 does not help, OutOfMemory if the device's memory does not suffice.
    """
    with explain_out_of_memory(name):
        result = stage()
        if result.requires_grad or is_finite(result):
            return result
        if part.dtype != torch.float32:
            logger.warning(
                "%s gave NaN or infinity in %s; running it again in fp32", name, short_name(part.dtype)
            )
            del result
            with part.fp32():
                result = stage()
            if is_finite(result):
                return result
    raise NonFiniteError(
        f"The {name} stage gives NaN or infinity even in fp32; check that the image has no such values, and "
        "that base and weights are undamaged and belong together."
    )


def is_finite(result: Tensor) -> bool:
    """Whether there is no NaN or infinity: the one look at values in a stage, for which it waits for an accelerator."""
    return bool(torch.isfinite(result).all())


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
