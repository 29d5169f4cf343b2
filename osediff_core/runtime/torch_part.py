"""Common part of the adapters over torch modules: where their weights are, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from .stage import weights_in_fp32


class TorchPart:
    """A port's network, at hand as `.module`: a model of diffusers or transformers."""

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights at this moment."""
        # not the module's own property: diffusers' looks through every layer, which takes as long as a small network
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.module.parameters()).device

    def requires_grad(self) -> bool:
        """Whether any of the weights is trained."""
        return any(parameter.requires_grad for parameter in self.module.parameters())

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move and cast the weights, one tensor after the other; what fits already is not copied."""
        # not the model's own `to`: diffusers' warns that some layers would rather stay in fp32
        nn.Module.to(self.module, device=device, dtype=dtype)

    def fp32(self) -> AbstractContextManager[None]:
        """Compute in fp32 inside this context."""
        return weights_in_fp32(self.module)
