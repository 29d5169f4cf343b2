"""The folder of a run: never another run's, and always in a state to go on from."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically
from osediff_core.errors import explained

from .checkpoints import (
    WEIGHTS,
    Checkpoint,
    all_checkpoints,
    clear_leftovers,
    latest_checkpoint,
    save_checkpoint,
)
from .config import LoopConfig
from .errors import TrainingError
from .history import gone_back_to, set_aside
from .logs import RunLog, check_loggers
from .report import write_report
from .settings import as_yaml

log = logging.getLogger("training")


class RunFolder:
    """RUN/ of a configuration. `resumed` is the checkpoint to go on from, or None.

    Raises TrainingError where a run would be overwritten, or the folder cannot be written; OptionError for a logger
    that is not installed.
    """

    def __init__(self, config: LoopConfig) -> None:
        self.config, self.path = config, Path(config.output)
        self.checkpoints = self.path / "checkpoints"
        check_writable(self.path, "The folder", "choose another output")
        check_loggers(config.loggers)
        self.resumed = self._find_resumed()

    def _find_resumed(self) -> Path | None:
        chosen = self.config.resume
        if chosen == "latest":
            return latest_checkpoint(self.checkpoints)
        if self.path.exists() and any(self.path.iterdir()):
            own = chosen is not None and Path(chosen).resolve().parent == self.checkpoints.resolve()
            if not own:
                raise TrainingError(
                    f"{self.path} holds a run already; go on with it by resume=latest, or choose another output."
                )
        return Path(chosen) if chosen else None

    def start(self, step: int) -> RunLog:
        """Make the folder, and open its log at `step`; checkpoints of later steps are set aside."""
        with explained(TrainingError, f"The folder {self.path} cannot be written", "choose another output"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            clear_leftovers(self.checkpoints)
            left = set_aside(self.path, step)
            if left:
                log.info("going back to step %d; what the run had beyond it is in %s", step, left)
            write_bytes_atomically(self.path / "config.yaml", as_yaml(self.config).encode())
        return RunLog(self.path, self.config.loggers, step, asdict(self.config))

    def save(
        self, checkpoint: Checkpoint, weights: bytes, best: int | None, weights_name: str = WEIGHTS
    ) -> None:
        """Write a checkpoint and drop old ones. Raises TrainingError; older checkpoints stay."""
        kept = gone_back_to(self.path) | ({best} if best is not None else set())
        config = as_yaml(self.config)
        save_checkpoint(self.checkpoints, checkpoint, weights, config, self.config.keep, kept, weights_name)

    def keeps(self, step: int | None) -> bool:
        """Whether the checkpoint of that step is there."""
        return step is not None and step in all_checkpoints(self.checkpoints)

    def sheet(self, step: int) -> Path:
        """Where the validation sheet of `step` goes."""
        return self.path / "sheets" / f"step_{step:08d}.png"

    def keep_failed(self, step: int, rank: int, batches: Sequence[object], names: list[str]) -> Path | None:
        """Write the batches that broke a step: their tensors, one after the other; None where they have none."""
        fields = (
            [name for name, value in vars(batches[0]).items() if isinstance(value, Tensor)] if batches else []
        )
        if not fields:
            return None
        path = self.path / "failed" / f"step_{step:08d}_rank_{rank}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in fields}
        write_bytes_atomically(path, save(tensors, {"names": "\n".join(names)}))
        return path

    def finish(self, run_log: RunLog) -> None:
        """Close the log and write the report."""
        run_log.close()
        write_report(self.path)


def check_writable(path: Path, what: str, remedy: str) -> None:
    """Raises TrainingError where the folder `path` cannot be made or written; nothing is left behind."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    with explained(TrainingError, f"{what} {path} cannot be written", remedy):
        with tempfile.TemporaryFile(dir=there):
            pass
