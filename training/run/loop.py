"""The loop of a run, whatever is trained: steps, logs, validation, checkpoints, and how it stops and goes on."""

from __future__ import annotations

import argparse
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from tqdm import tqdm

from osediff_core.cli.entry import run_main

from ..data import Batch, PairLoader
from ..data.loader import samples_counted, state_of_rank
from .changes import Change, another_validation, changes_since, check_changes
from .checkpoints import Checkpoint, load_checkpoint, saved_settings
from .config import RunConfig
from .errors import NonFiniteLossError, TrainingError
from .folder import RunFolder
from .launch import start_accelerator
from .logs import RunLog
from .signals import StopSignals
from .updater import Updater

log = logging.getLogger("training")


class Loop(ABC):
    """Everything that runs have in common; `run` is the loop. A subclass says what a step is.

    shown: what the progress bar shows. watched: the figure of validation whose lowest value is the best step's.
    updaters: what is trained, by name, to be set by the subclass; `restore` then goes on from a checkpoint.
    """

    shown: ClassVar[tuple[str, ...]]
    watched: ClassVar[str]
    updaters: dict[str, Updater]

    def __init__(self, config: RunConfig, not_wrapped: str) -> None:
        """not_wrapped: what to say of a launch with FSDP or DeepSpeed. Raises OSEDiffError; nothing is written."""
        self.config = config
        self.accelerator = start_accelerator(config.device, not_wrapped)
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.folder = RunFolder(config)
        self.changes: list[Change] = []
        if self.folder.resumed:
            self.changes = changes_since(saved_settings(self.folder.resumed), config)
            check_changes(self.changes, config, self.folder.resumed)
        self.step, self.best = 0, {"step": None, "value": float("inf")}
        self.signals, self.validates_everywhere = StopSignals(), False
        self.log: RunLog | None = None
        self.loader: PairLoader

    def restore(self, multiple: int) -> None:
        """Go on from the checkpoint that the settings name, if any, and open the data.

        multiple: what the crops' side must be divisible by. Raises OSEDiffError.
        """
        state = self._load(self.folder.resumed) if self.folder.resumed else None
        config, accelerator = self.config, self.accelerator
        self.loader = PairLoader(
            config.data,
            config.batch,
            config.seed,
            accelerator.process_index,
            accelerator.num_processes,
            state=state,
            multiple=multiple,
        )

    # ---- what a subclass says ----

    @abstractmethod
    def update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One step; the figures to be logged."""

    @abstractmethod
    def validate(self) -> dict[str, float] | None:
        """Figures, `watched` among them; None where there is nothing to validate on. On the main process alone, or on
        all if `validates_everywhere`.
        """

    @abstractmethod
    def weights(self) -> bytes:
        """What a checkpoint's weights.safetensors holds."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write what the run is for, at its end."""

    # ---- the loop ----

    def run(self) -> None:
        """Train from where the run stands to its last step. Raises OSEDiffError; what was saved stays."""
        config = self.config
        self.log = self.folder.start(self.step) if self.main else None
        self.accelerator.wait_for_everyone()
        batches = iter(self.loader)
        bar = tqdm(total=config.steps, initial=self.step, disable=None if self.main else True, unit="step")
        running: dict[str, list[Tensor]] = {}
        if self.step == 0 and self._validate():
            self.save()
        with self.signals:
            while self.step < config.steps and not self._must_stop():
                values = self.update(batches)
                self.step += 1
                for name, value in values.items():
                    running.setdefault(name, []).append(value)
                bar.update()
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    bar.set_postfix(self._log(running))
                due = self.step % config.save_every == 0 or last
                if self.step % config.validation.every == 0 or last:
                    due |= self._validate()
                if due:
                    self.save()
        bar.close()
        if self.step < config.steps:
            self.save()
            raise KeyboardInterrupt
        if self.main:
            self.export(self.folder.path)
            self.folder.finish(self.log)
        self.accelerator.wait_for_everyone()

    def sync(self, model: nn.Module, index: int) -> Any:  # noqa: ANN401 - a context manager
        """Gradients travel between ranks once a step, with the last micro-batch."""
        if index + 1 == self.config.optim.accumulate:
            return torch.enable_grad()
        return self.accelerator.no_sync(model)

    def check(
        self, who: str, updater: Updater, norm: Tensor, values: Mapping[str, Tensor], batches: Sequence[Batch]
    ) -> None:
        """Stop where the gradients' norm is not finite: every rank sees the same one, so all stop together."""
        if bool(torch.isfinite(norm)) or (updater.scaler.is_enabled() and updater.scaler.get_scale() >= 1):
            return
        names = [name for batch in batches for name in batch.names]
        lq, hq = (torch.cat([getattr(batch, side) for batch in batches]) for side in ("lq", "hq"))
        path = self.folder.keep_failed(self.step + 1, self.accelerator.process_index, lq, hq, names)
        terms = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        raise NonFiniteLossError(
            f"Step {self.step + 1} gave the {who} a gradient that is not finite ({terms}) from {', '.join(names)}; the "
            f"batch is in {path}: look at it, lower the learning rate, or use precision=fp32, then resume=latest."
        )

    # ---- validation, logs, files ----

    def _validate(self) -> bool:
        """Whether this step is the best one so far and must be kept; all ranks agree."""
        found = self.validate() if self.main or self.validates_everywhere else None
        if found is not None and self.main:
            self.log.log(self.step, found, kind="validation")
        (value,) = broadcast_object_list([found[self.watched] if found is not None else None])
        better = value is not None and value < self.best["value"]
        if better:
            self.best = {"step": self.step, "value": value}
        return better

    def _log(self, running: dict[str, list[Tensor]]) -> dict[str, str]:
        """Means since the last time, over all ranks."""
        names = sorted(running)
        means = torch.stack([torch.stack(running[name]).float().mean() for name in names])
        means = self.accelerator.reduce(means, "mean")
        running.clear()
        values = dict(zip(names, means.tolist(), strict=True)) | {
            "learning_rate": next(iter(self.updaters.values())).learning_rate,
            "skipped": float(len(self.loader.skipped)),
            "enlarged": float(self.loader.enlarged),
        }
        if self.main:
            self.log.log(self.step, values)
        return {name: f"{values[name]:.4g}" for name in self.shown if name in values}

    def save(self) -> None:
        """Write a checkpoint."""
        states = gather_object([self.loader.state()])
        # on every rank, as reading a split network changes what it gathers next
        weights = self.weights()
        if self.main:
            tensors, values = {}, {"step": self.step, "best": self.best, "data": states}
            for name, updater in self.updaters.items():
                found, values[name] = updater.state()
                tensors |= {f"{name}/{key}": tensor for key, tensor in found.items()}
            self.folder.save(Checkpoint(tensors, values), weights, self.best["step"])
        self.accelerator.wait_for_everyone()

    def _load(self, path: Path) -> dict[str, Any]:
        """Set everything as it was; returns this rank's position in the data."""
        checkpoint = load_checkpoint(path)
        values = checkpoint.values
        try:
            for name, updater in self.updaters.items():
                prefix = f"{name}/"
                tensors = {
                    key.removeprefix(prefix): tensor
                    for key, tensor in checkpoint.tensors.items()
                    if key.startswith(prefix)
                }
                updater.load(tensors, values[name], values["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path} is of a run with another base, rank or regulariser; resume it with the config.yaml in it."
            ) from error
        batch, states = checkpoint.settings.get("batch", self.config.batch), values["data"]
        states = [samples_counted(state, batch, len(states)) for state in states]
        self.step = values["step"]
        if self.step > self.config.steps:
            raise TrainingError(
                f"{path} is beyond the {self.config.steps} steps asked for; give more steps, or an earlier checkpoint."
            )
        if self.folder.keeps(values["best"]["step"]) and not another_validation(self.changes):
            self.best = values["best"]
        log.info("resumed from %s", path)
        for change in self.changes if self.main else ():
            log.info("changed from here on: %s: %s", *change.shown)
        return state_of_rank(states, self.accelerator.process_index, self.accelerator.num_processes)

    def _must_stop(self) -> bool:
        """Whether any rank was told to: all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return self.signals.received
        flag = torch.tensor(float(self.signals.received), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)


def add_means(values: dict[str, Tensor], new: Mapping[str, Tensor], count: int) -> None:
    """Add to `values` what `new` contributes to a mean over `count` micro-batches."""
    for name, value in new.items():
        values[name] = values.get(name, 0) + value.detach() / count


def run_command(
    start: Callable[[str, list[str]], Loop], module: str, doc: str, example: str, argv: Sequence[str] | None
) -> int:
    """Run a trainer's command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted.

    start: (path of the configuration, changes to it) -> the run.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.splitlines()[0])
    parser.add_argument("--config", required=True, help=f"a YAML file, such as {example}")
    parser.add_argument(
        "settings", nargs="*", metavar="section.key=value", help="changes to the configuration"
    )
    args = parser.parse_args(argv)
    return run_main(
        lambda: start(args.config, args.settings).run(),
        log,
        interrupted="interrupted; resume=latest goes on from the last checkpoint",
        line="%(levelname)s: %(message)s",
    )
