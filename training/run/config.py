"""What the settings of every kind of run have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from ..data.config import DataConfig

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


@dataclass
class AdamWConfig:
    """An optimiser with its schedule, clip and, in fp16, loss scale."""

    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    eps: float = 1e-8
    clip: float | None = 1.0  # total gradient norm; None: no limit
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "multistep"] = "constant"
    warmup: int = 0  # steps
    # multistep: from each of these steps on the rate is `gamma` times what it was
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    accumulate: int = 1  # micro-batches a step
    # adamw8bit: moments in 8 bits, by the package bitsandbytes, on CUDA alone
    kind: Literal["adamw", "adamw8bit"] = "adamw"
    fused: bool = False  # one kernel for all parameters; the same update up to rounding
    ema: float = 0.0  # decay of the average, 0: none

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, or has no effect, each as a clause."""
        yield from below_one({"optim.accumulate": self.accumulate})
        above = {"learning_rate": self.learning_rate, "eps": self.eps, "gamma": self.gamma, "clip": self.clip}
        yield from not_above_zero({f"optim.{name}": value for name, value in above.items()})
        yield from below_zero({"optim.weight_decay": self.weight_decay, "optim.warmup": self.warmup})
        if not all(0 <= beta < 1 for beta in self.betas):
            yield f"optim.betas are {list(self.betas)}, but must be at least 0 and below 1"
        if self.fused and self.kind == "adamw8bit":
            yield "optim.fused has no effect with optim.kind adamw8bit, which has its own kernels"
        if self.warmup and self.schedule == "constant":
            yield (
                f"optim.warmup is {self.warmup}, but optim.schedule constant has none; use constant_with_warmup, or "
                "leave warmup out"
            )
        if not 0 <= self.ema < 1:
            yield f"optim.ema is {self.ema}, but must be at least 0 and below 1"
        if list(self.milestones) != sorted({step for step in self.milestones if step > 0}):
            yield f"optim.milestones {list(self.milestones)} must rise, from step 1 on"
        if bool(self.milestones) != (self.schedule == "multistep"):
            yield "optim.milestones go with optim.schedule multistep, and it with them"


@dataclass
class PairsConfig:
    """Fixed pairs, looked at every so often."""

    path: str | None = None  # folder of pictures, or of LR/ and HR/; None: no validation
    every: int = 500  # steps
    limit: int = 16  # pictures
    size: int = 512  # px, centre crop
    preset: str = "light"  # how pictures without an LR/ partner are degraded, always in the same way

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        names = ("every", "limit", "size")
        yield from below_one({f"validation.{name}": getattr(self, name) for name in names})


@dataclass(kw_only=True)
class LoopConfig:
    """What the loop asks for, whatever is trained on whatever data."""

    output: str  # folder of the run; one that holds another run is never overwritten
    steps: int = 100_000
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast; fp16 goes with a loss scale
    seed: int = 123
    resume: str | None = None  # latest, or a checkpoint's folder
    save_every: int = 500  # steps
    keep: int = 3  # checkpoints, beside the best one
    log_every: int = 10  # steps
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    device: str = "auto"  # auto, cpu, cuda, mps, xpu; with several cards each process takes its own

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        names = ("steps", "save_every", "keep", "log_every")
        yield from below_one({name: getattr(self, name) for name in names})
        if not 0 <= self.seed < 2**63:
            yield f"seed is {self.seed}, but must be at least 0 and below 2^63"
        kind, colon, index = self.device.partition(":")
        if kind not in DEVICES or (colon and not index.isdecimal()):
            yield f"device is {self.device!r}; use {', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
        elif colon:
            yield (
                f"device is {self.device}, but processes take the cards in turn; use device={kind} and choose the card "
                f"before the command, as in CUDA_VISIBLE_DEVICES={index}"
            )


@dataclass(kw_only=True)
class RunConfig(LoopConfig):
    """A run on pairs of pictures."""

    data: DataConfig
    batch: int = 4  # samples a process and micro-batch

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        yield from super().faults()
        yield from below_one({"batch": self.batch})


def not_above_zero(values: Mapping[str, float | None]) -> Iterator[str]:
    """Settings that must be above 0 and are not, each as a clause; None is well."""
    for name, value in values.items():
        if value is not None and value <= 0:
            yield f"{name} is {value}, but must be above 0"


def below_zero(values: Mapping[str, float]) -> Iterator[str]:
    """Settings that must be 0 or more and are not, each as a clause."""
    for name, value in values.items():
        if value < 0:
            yield f"{name} is {value}, but must be 0 or more"


def below_one(values: Mapping[str, int]) -> Iterator[str]:
    """Settings that must be 1 or more and are not, each as a clause."""
    for name, value in values.items():
        if value < 1:
            yield f"{name} is {value}, but must be 1 or more"
