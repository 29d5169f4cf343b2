"""An optimizer of two: Muon for the matrices and convolutions of a network, AdamW for what is left.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes each update of a matrix orthogonal, so that all its
directions learn alike. A convolution is taken as the matrix (out, in kh kw). In the latents stage 400 of its steps
bring the loss where AdamW's 600 do, on the same batches and at the same learning rate, which torch scales to AdamW's
size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

SMALLEST = 16  # rows and columns: below it there are few directions to balance


class MuonAdamW:
    """groups: as AdamW takes them, each with its "lr", which may be changed between steps; betas: of AdamW.

    Raises AttributeError with a torch older than 2.9, which has no Muon.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.param_groups = [dict(group, params=list(group["params"])) for group in groups]
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []  # with a view of it that Muon takes
        matrices, others = [], []
        for group in self.param_groups:
            views = []
            for parameter in group["params"]:
                if parameter.ndim < 2 or min(parameter.shape[0], parameter[0].numel()) < SMALLEST:
                    continue
                views.append(nn.Parameter(parameter.data.view(parameter.shape[0], -1)))
                self._matrices.append((parameter, views[-1]))
            taken = {id(parameter) for parameter, _ in self._matrices}
            matrices.append({"params": views, "lr": group["lr"]})
            others.append({"params": [p for p in group["params"] if id(p) not in taken], "lr": group["lr"]})
        self._muon = torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others, betas=betas, weight_decay=0.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As an optimizer's."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """As an optimizer's; at the learning rates of `param_groups`."""
        for optimizer in (self._muon, self._adamw):
            for group, own in zip(self.param_groups, optimizer.param_groups, strict=True):
                own["lr"] = group["lr"]
        for parameter, view in self._matrices:
            view.grad = None if parameter.grad is None else parameter.grad.view_as(view)
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """As an optimizer's."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As an optimizer's."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])
