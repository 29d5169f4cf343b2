"""The balance of a loss by shares of the gradient: weights follow from measured norms, not from guessing.

A weight says little: at the restored latents VSD's gradient may be a thousandth of the image losses', or ten times it,
as base, resolution and step change. With shares s_i for some terms and g_i = ||d term_i / d latents||,

    w_i = s_i / (1 - sum s) * ||d rest / d latents|| / g_i

where `rest` is all that keeps its fixed weight. Then s_i = w_i g_i / (||rest|| + sum w_j g_j): norms are added up, as
the directions change from step to step. The idea of weighing by gradient norms is that of VQGAN's adaptive weight
(arXiv 2012.09841, eq. 7); here the norms are averaged over steps, so that one odd batch changes little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

REST = "rest"
_TINY = 1e-12  # a term without any gradient gets no infinite weight


class GradientBalance:
    """Weights of the terms that have a share.

    shares: term -> share of the whole gradient, each above 0 and together below 1. every: calls from one measurement to
    the next; the first call measures. average: how much of the mean so far a new norm leaves, 0 for none.
    scale: the terms are multiplied by it while they are measured, since fp16 loses small gradients.
    """

    def __init__(
        self, shares: Mapping[str, float], every: int = 10, average: float = 0.9, scale: float = 1.0
    ) -> None:
        self.shares, self.every, self.average, self.scale = dict(shares), every, average, scale
        self.calls, self.measured = 0, 0
        self.norms: dict[str, float] = {}

    def figures(self) -> dict[str, float]:
        """For the log: the weight of each term that has a share, as "weight_TERM"."""
        return {f"weight_{name}": weight for name, weight in self._weights().items()}

    def __bool__(self) -> bool:
        return bool(self.shares)

    def weights(self, terms: Mapping[str, Tensor], rest: Tensor, at: Tensor) -> dict[str, float]:
        """term -> weight, of those that have a share.

        terms: scalars by name; rest: the sum of the others, weighted. at: the tensor whose gradients are compared, with
        the graph of all of them, which stays usable.
        """
        if self.calls % self.every == 0:
            self._measure({REST: rest, **{name: terms[name] for name in self.shares}}, at)
        self.calls += 1
        return self._weights()

    def _weights(self) -> dict[str, float]:
        whole = self.norms.get(REST, 0.0) / (1 - sum(self.shares.values()))
        norms = {name: self.norms.get(name, 0.0) for name in self.shares}
        return {
            name: share * whole / norms[name] if norms[name] > _TINY else 0.0
            for name, share in self.shares.items()
        }

    def _measure(self, terms: Mapping[str, Tensor], at: Tensor) -> None:
        found = torch.stack([self._norm(term, at) for term in terms.values()])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)  # so that all ranks weigh alike
            found /= torch.distributed.get_world_size()
        if not bool(torch.isfinite(found).all()):
            return
        # the plain mean at first: an average that starts at one batch's norms would keep them long
        kept = min(self.average, self.measured / (self.measured + 1))
        for name, norm in zip(terms, found.tolist(), strict=True):
            self.norms[name] = kept * self.norms.get(name, 0.0) + (1 - kept) * norm
        self.measured += 1

    def _norm(self, term: Tensor, at: Tensor) -> Tensor:
        if not term.requires_grad:
            return at.new_zeros((), dtype=torch.float32)
        (gradient,) = torch.autograd.grad(self.scale * term, at, retain_graph=True, allow_unused=True)
        return (
            at.new_zeros((), dtype=torch.float32)
            if gradient is None
            else gradient.float().norm() / self.scale
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As an updater's: (no tensors, JSON-able values), from which `load` goes on exactly."""
        return {}, {"calls": self.calls, "measured": self.measured, "norms": dict(self.norms)}

    def load(self, _tensors: Mapping[str, Tensor], values: Mapping[str, Any], _step: int) -> None:
        """Go on from `state`; if a term with a share is new, all are measured at the next call."""
        self.calls, self.measured = values["calls"], values["measured"]
        self.norms = dict(values["norms"])
        if not self.norms.keys() >= {REST, *self.shares}:
            self.calls, self.measured, self.norms = 0, 0, {}
