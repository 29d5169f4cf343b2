"""Optimiser with what belongs to it: learning-rate schedule, clipping, loss scale, average."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from osediff_core.errors import OptionError

from .config import AdamWConfig


class Updater:
    """AdamW over named fp32 parameters. Two updaters share nothing, so one's overflow leaves the other alone.

    steps, per_step: of the run, and updates in each.
    average: the exponential moving average by name, empty without one. skipped: updates that an overflow cost.
    broken: whether the last gradient was not finite, and not by the loss scale's fault: the run must stop.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        learning_rate: float,
        config: AdamWConfig,
        steps: int,
        *,
        conv_in_factor: float = 1.0,
        ema: float = 0.0,
        scale_loss: bool = False,
        per_step: int = 1,
    ) -> None:
        self.per_step = per_step
        self.parameters, self.clip, self.ema = parameters, config.clip, ema
        self.optimizer = _optimiser(_groups(parameters, learning_rate, conv_in_factor), learning_rate, config)
        self.schedule = _schedule(self.optimizer, config, steps * per_step)
        device = next(iter(parameters.values())).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=scale_loss)
        self.average = {name: p.detach().clone() for name, p in parameters.items()} if ema else {}
        self.updates, self.skipped, self.broken = 0, 0, False

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        self.scaler.scale(loss).backward()

    def step(self) -> Tensor:
        """Clip, update, and forget the gradients; returns their total norm before clipping.

        A norm that is not finite updates nothing. With a loss scale that is an overflow, and the scale is lowered;
        without one, or where the scale is below 1 already, `broken` says that it is more than that.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(
            self.parameters.values(), float("inf") if self.clip is None else self.clip
        )
        finite = bool(torch.isfinite(norm))
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.broken = not finite and not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        if finite:
            self._move_average()
        else:
            self.skipped += 1
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected call of `lr_scheduler.step"
            )  # if the very first was skipped
            self.schedule.step()  # counts steps, whether they updated or not: so a resumed run finds its place
        return norm.detach()

    def figures(self) -> dict[str, float]:
        """What the log says of the loss scale; nothing without one."""
        if not self.scaler.is_enabled():
            return {}
        return {"loss_scale": self.scaler.get_scale(), "overflows": float(self.skipped)}

    @property
    def learning_rate(self) -> float:
        """Of the LoRA, at the next step."""
        return float(self.schedule.get_last_lr()[0])

    @torch.no_grad()
    def _move_average(self) -> None:
        # early on a long memory would keep the start alive
        decay = min(self.ema, (1 + self.updates) / (10 + self.updates))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name].detach(), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are their average, where there is one."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        for name, average in self.average.items():
            parameter = self.parameters[name]
            parameter.data, self.average[name] = average, parameter.data

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON-able values) from which `load` goes on exactly."""
        tensors = {f"parameter.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": average for name, average in self.average.items()}
        state = self.optimizer.state_dict()
        plain: dict[str, Any] = {}
        for index, moments in state["state"].items():
            for key, value in moments.items():
                (tensors if isinstance(value, Tensor) else plain)[f"adamw.{index}.{key}"] = value
        values = {
            "groups": state["param_groups"],
            "plain": plain,
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "updates": self.updates,
            "skipped": self.skipped,
        }
        return tensors, values

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], values: dict[str, Any], step: int) -> None:
        """Go on from `state` at this step of the run, by the settings of now: rate, decay, betas, schedule, average.

        Raises KeyError, ValueError or RuntimeError where it is another model's.
        """
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
        for name, average in self.average.items():
            average.copy_(tensors.get(f"average.{name}", tensors[f"parameter.{name}"]))
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in {**tensors, **values.get("plain", {})}.items():
            if key.startswith("adamw."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        if [group["params"] for group in groups] != [group["params"] for group in values["groups"]]:
            raise ValueError("other groups of parameters")
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._go_to(step * self.per_step)
        if values["scaler"]:  # empty where no scale was needed
            self.scaler.load_state_dict(values["scaler"])
        self.updates, self.skipped = values["updates"], values.get("skipped", 0)

    def _go_to(self, update: int) -> None:
        """Set the learning rates of that update, as if the schedule had been this one from the start."""
        schedule = self.schedule
        schedule.last_epoch = update
        rates = [
            base * share(update) for base, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule.load_state_dict(schedule.state_dict() | {"_last_lr": rates, "_step_count": update + 1})


def _optimiser(
    groups: list[dict[str, Any]], learning_rate: float, config: AdamWConfig
) -> torch.optim.Optimizer:
    """Raises OptionError where the package of 8-bit moments is not installed."""
    settings: dict[str, Any] = {
        "lr": learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "eps": config.eps,
    }
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, fused=config.fused or None, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OptionError(
            "optim.kind adamw8bit needs the package bitsandbytes; run pip install bitsandbytes, or use adamw."
        ) from error
    return AdamW8bit(groups, **settings)


def _schedule(optimizer: torch.optim.Optimizer, config: AdamWConfig, steps: int) -> LambdaLR:
    if config.schedule != "multistep":
        return get_scheduler(
            config.schedule, optimizer, num_warmup_steps=config.warmup, num_training_steps=steps
        )

    def share(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, config.warmup))
        return warm * config.gamma ** bisect_right(config.milestones, step)

    return LambdaLR(optimizer, share)


def _groups(
    parameters: dict[str, nn.Parameter], learning_rate: float, conv_in_factor: float
) -> list[dict[str, Any]]:
    """LoRA, and conv_in's own weights. Every parameter once: the official list has conv_in's LoRA twice, which Adam
    then steps twice."""
    own = [name for name in parameters if name.startswith("unet/conv_in.base_layer.")]
    groups: list[dict[str, Any]] = [{"params": [p for name, p in parameters.items() if name not in own]}]
    if own:
        groups.append({"params": [parameters[name] for name in own], "lr": learning_rate * conv_in_factor})
    return groups
