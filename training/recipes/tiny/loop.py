"""The loop that every stage shares: learning rate, clipping, EMA, logged curves, and a state that survives kill -9.

A stage is a function `loss(step, rng) -> dict of scalar tensors` whose "loss" is minimised. Random numbers come
from generators seeded by (seed, step), so a resumed run sees the same batches as an uninterrupted one.

It is apart from `training/run/loop.py`, which trains adapters by a YAML file in a folder of its own: here several
stages run in one process, train whole networks in groups with rates of their own, and may end by the clock.

Under torchrun every process draws batches of its own and gradients are averaged (`processes`); the first one
validates and writes.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from osediff_core.atomic import write_bytes_atomically

from .muon import MuonAdamW

log = logging.getLogger(__name__)

LossFunction = Callable[[int, np.random.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class StageOptions:
    """Settings of one stage."""

    steps: int
    learning_rate: float
    seed: int = 0
    warmup: int = 100  # steps
    final_share: float = 0.03  # of the learning rate, at the end of the cosine
    ema_decay: float = 0.0  # 0: none
    clip: float = 1.0  # gradient norm
    muon: bool = False  # for matrices and convolutions, instead of AdamW
    save_every: int = 250  # steps
    log_every: int = 50  # steps
    minutes: float = math.inf  # wall time after which the stage ends early, with the cosine squeezed to fit


def processes() -> tuple[int, int]:
    """(number of this process, how many there are), as torchrun says; joins them at the first call."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(hours=2))
    return (dist.get_rank(), world) if world > 1 else (0, 1)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if processes()[1] > 1:
        dist.barrier()


class Stage:
    """Trains `parameters` (groups as AdamW takes them) of `modules`; state and curve live in `folder`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        modules: dict[str, nn.Module],
        parameters: Iterable[dict],
        options: StageOptions,
    ) -> None:
        self.name, self.modules, self.options = name, modules, options
        folder.mkdir(parents=True, exist_ok=True)
        self.rank, self.world = processes()
        self.state_path, self.curve_path = folder / f"{name}.pt", folder / f"{name}.csv"
        self.groups = [{"lr": options.learning_rate, **group} for group in parameters]
        self.scales = [group["lr"] / options.learning_rate for group in self.groups]
        self.optimizer = (
            MuonAdamW(self.groups)
            if options.muon
            else torch.optim.AdamW(self.groups, betas=(0.9, 0.99), weight_decay=0.0)
        )
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.ema = [parameter.detach().clone() for parameter in self.trained] if options.ema_decay else []
        self.step, self.elapsed, self.finished = 0, 0.0, False
        if self.state_path.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed, self.finished = state["step"], state["elapsed"], state["finished"]
        for average, saved in zip(self.ema, state["ema"], strict=True):
            average.copy_(saved)
        log.info("%s: resumed at step %d", self.name, self.step)

    def save(self) -> None:
        """Write everything that the stage needs to go on."""
        modules = {name: module.state_dict() for name, module in self.modules.items()}
        state = {
            "modules": modules,
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "elapsed": self.elapsed,
            "finished": self.finished,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes_atomically(self.state_path, buffer.getvalue())

    def progress(self) -> float:
        """Share of the stage that is done, by steps or by time, whichever is further."""
        return min(1.0, max(self.step / self.options.steps, self.elapsed / (60 * self.options.minutes)))

    def _learning_rate_share(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
        decayed = self.options.final_share + (1 - self.options.final_share) * cosine
        return decayed * min(1.0, (self.step + 1) / self.options.warmup)

    def run(
        self, loss: LossFunction, validate: Callable[[], dict[str, float]], validate_every: int = 1000
    ) -> None:
        """Train to the end (or to the time limit); afterwards the modules hold the averaged weights."""
        if not self.finished:
            self._train(loss, validate, validate_every)
        self._set(self.ema)

    def _set(self, values: list[Tensor]) -> None:
        """Give the trained parameters these values; an empty list changes nothing."""
        for parameter, value in zip(self.trained if values else [], values, strict=True):
            parameter.data.copy_(value)

    def _train(
        self, loss: LossFunction, validate: Callable[[], dict[str, float]], validate_every: int
    ) -> None:
        running: dict[str, list[float]] = {}
        last = time.monotonic()
        while self.progress() < 1:
            terms = self._update(loss)
            for key, value in terms.items():
                running.setdefault(key, []).append(float(value))
            now = time.monotonic()
            self.elapsed, last = self._same_for_all(self.elapsed + now - last), now
            done = self.progress() >= 1
            if self.rank:
                continue
            if self.step % self.options.log_every == 0 or done:
                row = {key: float(np.mean(values)) for key, values in running.items()}
                running.clear()
                if self.step % validate_every == 0 or done:
                    row |= self._validated(validate)
                self.record(row)
            if self.step % self.options.save_every == 0 or done:
                self.finished = done
                self.save()

    def _update(self, loss: LossFunction) -> dict[str, Tensor]:
        options = self.options
        own = [self.rank] if self.rank else []
        torch.manual_seed(options.seed * 1_000_003 + self.step + 500_009 * self.rank)
        terms = loss(self.step, np.random.default_rng([options.seed, self.step, *own]))
        if not torch.isfinite(terms["loss"]):
            raise FloatingPointError(
                f"{self.name}: the loss is not finite at step {self.step}; lower the learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        self._average_gradients()
        norm = nn.utils.clip_grad_norm_(self.trained, options.clip)
        share = self._learning_rate_share()
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = options.learning_rate * scale * share
        self.optimizer.step()
        self.step += 1
        decay = min(options.ema_decay, (1 + self.step) / (10 + self.step))
        for average, parameter in zip(self.ema, self.trained if self.ema else [], strict=True):
            average.lerp_(parameter.detach(), 1 - decay)
        return {key: value.detach() for key, value in terms.items()} | {"grad_norm": norm}

    def _average_gradients(self) -> None:
        if self.world > 1:
            together = torch.cat([parameter.grad.flatten() for parameter in self.trained])
            dist.all_reduce(together)
            parts = (together / self.world).split([parameter.numel() for parameter in self.trained])
            for parameter, part in zip(self.trained, parts, strict=True):
                parameter.grad.copy_(part.view_as(parameter))

    def _same_for_all(self, seconds: float) -> float:
        """The first process's clock, so that all have the same learning rate and end together."""
        if self.world > 1:
            clock = torch.tensor([seconds], dtype=torch.float64)
            dist.broadcast(clock, 0)
            seconds = float(clock)
        return seconds

    @torch.no_grad()
    def _validated(self, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Validation of the averaged weights where there are any."""
        current = [parameter.detach().clone() for parameter in self.trained]
        self._set(self.ema)
        found = validate()
        self._set(current)
        return found

    def record(self, row: dict[str, float]) -> None:
        """Add one row of figures to the log and the curve."""
        log.info(
            "%s %d (%.1f min) %s",
            self.name,
            self.step,
            self.elapsed / 60,
            " ".join(f"{key} {value:.4g}" for key, value in row.items()),
        )
        is_new = not self.curve_path.exists()
        with self.curve_path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", "seconds", "name", "value"])
            writer.writerows(
                [self.step, round(self.elapsed, 1), key, f"{value:.6g}"] for key, value in row.items()
            )
