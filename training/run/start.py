"""A run before its first step: its processes and device, its folder, and the checkpoint that it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from .changes import Change, another_validation, changes_since, check_changes
from .checkpoints import load_checkpoint, saved_settings
from .config import LoopConfig
from .errors import TrainingError
from .folder import RunFolder
from .launch import start_accelerator
from .updater import Updater

log = logging.getLogger("training")

Config = TypeVar("Config", bound=LoopConfig, covariant=True)


class Kept(Protocol):
    """A part of a run whose state a checkpoint holds."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON-able values) from which `load` goes on exactly."""
        ...

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any], step: int, /) -> None:
        """Go on from `state`, at this step of the run."""
        ...

    def figures(self) -> dict[str, float]:
        """What the log says of it."""
        ...


NOTHING: Mapping[str, Kept] = MappingProxyType({})
T = TypeVar("T")


class Run(Generic[Config]):
    """What the parts of a run are made with; `loop` then trains them.

    step: how many are done. checkpoint: what it goes on from, None for a new run. best: the step and value of the best
    validation so far.
    """

    def __init__(self, config: Config, not_wrapped: str) -> None:
        """not_wrapped: what to say of a launch with FSDP or DeepSpeed. Raises OSEDiffError; nothing is written."""
        self.config = config
        self.accelerator = start_accelerator(config.device, not_wrapped)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.folder = RunFolder(config)
        self.step, self.best = 0, {"step": None, "value": float("inf")}
        self.checkpoint, self._changes = None, list[Change]()
        if self.folder.resumed:
            self._changes = changes_since(saved_settings(self.folder.resumed), config)
            check_changes(self._changes, config, self.folder.resumed)
            self.checkpoint = load_checkpoint(self.folder.resumed)

    def restore(self, updaters: Mapping[str, Updater], kept: Mapping[str, Kept] = NOTHING) -> None:
        """Set what is trained, and the step, as they were at the checkpoint. Raises TrainingError."""
        checkpoint, path = self.checkpoint, self.folder.resumed
        if checkpoint is None:
            return
        values = checkpoint.values
        try:
            for name, updater in updaters.items():
                updater.load(checkpoint.tensors_of(name), values[name], values["step"])
            for name, part in kept.items():
                if name in values:  # else it was not there before, and begins here
                    part.load(checkpoint.tensors_of(name), values[name], values["step"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{path} is of a run with another base, rank or regulariser; resume it with the config.yaml in it."
            ) from error
        self.step = values["step"]
        if self.step > self.config.steps:
            raise TrainingError(
                f"{path} is beyond the {self.config.steps} steps asked for; give more steps, or an earlier checkpoint."
            )
        if self.folder.keeps(values["best"]["step"]) and not another_validation(self._changes):
            self.best = values["best"]
        self.checkpoint = None  # its tensors are as many as those in training
        log.info("resumed from %s", path)
        for change in self._changes if self.main else ():
            log.info("changed from here on: %s: %s", *change.shown)

    def distributed(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the ranks."""
        return self.accelerator.prepare_model(module)

    def gradients_stay(self, module: nn.Module, stay: bool) -> AbstractContextManager[None]:
        """Gradients travel between ranks once a step, with the last micro-batch: until then they `stay`."""
        return self.accelerator.no_sync(module) if stay else nullcontext()

    def any_rank(self, flag: bool) -> bool:
        """Whether it is true on any rank, so that all do the same."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        return bool(self.mean_of_all(flags) > 0)

    def mean_of_all(self, values: Tensor) -> Tensor:
        """Over the ranks."""
        return cast("Tensor", self.accelerator.reduce(values, "mean"))

    def of_main(self, value: T) -> T:
        """The main process's value, on every rank."""
        return broadcast_object_list([value])[0]

    def of_all(self, values: list[T]) -> list[T]:
        """The lists of all ranks, one after the other, on every rank."""
        return gather_object(values)

    def wait(self) -> None:
        """Until all ranks are here."""
        self.accelerator.wait_for_everyone()
