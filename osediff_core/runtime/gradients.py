"""Gradients: whether a computation is one that they must go through."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Trainable(Protocol):
    """Something with weights."""

    def requires_grad(self) -> bool:
        """Whether any of the weights is trained."""
        ...


def needs_gradients(part: Trainable, *inputs: Tensor | None) -> bool:
    """Whether what `part` makes of the inputs will be differentiated.

    PyTorch's default mode alone does not say so: scripts that only restore run in it, too.
    """
    if not torch.is_grad_enabled():
        return False
    return any(x is not None and x.requires_grad for x in inputs) or part.requires_grad()
