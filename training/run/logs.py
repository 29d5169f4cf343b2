"""The log of a run: metrics.jsonl always, tensorboard and wandb where asked for.

    RUN/metrics.jsonl  one JSON object a line: {"step", "seconds", "kind": "train" | "validation", "values"}
    RUN/run.json       configuration and machine, as the report shows them
    RUN/tensorboard/   event files

Each line goes to the system as it is written, so a killed process loses none.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from osediff_core.atomic import write_bytes_atomically
from osediff_core.errors import OptionError, explained, first_line

from .errors import TrainingError

METRICS, FACTS = "metrics.jsonl", "run.json"
T = TypeVar("T")
LogRow = dict[str, Any]


class Logger(Protocol):
    """Where figures and pictures go beside the file."""

    def values(self, step: int, kind: str, values: Mapping[str, float]) -> None: ...
    def image(self, step: int, name: str, path: Path) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """Writes the log of the run in `folder`, and goes on with it from `start_step`.

    loggers: "tensorboard", "wandb". start_step: the step of the checkpoint that is resumed, 0 for a new run; rows of
    later steps are dropped, as they will be written again, and seconds go on from the last row that is kept.
    Raises OptionError for a logger that is unknown or not installed, TrainingError where the folder cannot be
    written.
    """

    def __init__(
        self,
        folder: Path,
        loggers: Sequence[str] = ("tensorboard",),
        start_step: int = 0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_loggers(loggers)
        self.folder, self._path = Path(folder), Path(folder) / METRICS
        config = dict(config or {})
        self._guarded(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        seconds = self._guarded(lambda: _keep_until(self._path, start_step))
        facts = self._guarded(lambda: _write_facts(self.folder, config))
        self._loggers: list[Logger] = [
            LOGGERS[name](self.folder, start_step, config, facts["id"]) for name in loggers
        ]
        self._file = self._guarded(lambda: self._path.open("a", encoding="utf-8", buffering=1))
        self._started = time.monotonic() - seconds

    def log(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Add a row; values that are not finite become null. Raises TrainingError where it cannot be written."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        row = {
            "step": step,
            "seconds": round(time.monotonic() - self._started, 3),
            "kind": kind,
            "values": finite,
        }
        self._guarded(lambda: self._file.write(json.dumps(row, allow_nan=False) + "\n"))
        for logger in self._loggers:
            logger.values(step, kind, values)

    def image(self, step: int, name: str, path: Path) -> None:
        """Show the picture in the file `path` in tensorboard or wandb."""
        for logger in self._loggers:
            logger.image(step, name, path)

    def close(self) -> None:
        """Write what is buffered; the log takes nothing more."""
        self._file.close()
        for logger in self._loggers:
            logger.close()

    def _guarded(self, action: Callable[[], T]) -> T:
        with explained(
            TrainingError,
            f"The log {self._path} cannot be written",
            "free space or mend the folder and go on with resume=latest",
        ):
            return action()


def read_log(path: Path) -> list[LogRow]:
    """The rows of a metrics.jsonl, or of the one in a run's folder; null becomes NaN, a torn last line is left out.

    Raises TrainingError where there is none or a line is no row.
    """
    path = Path(path) / METRICS if Path(path).is_dir() else Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"The log {path} cannot be read ({first_line(error)}); give a run's folder."
        ) from error
    lines = text.split("\n")[:-1]  # what follows the last newline is torn
    return [_parsed(line, f"Line {number} of {path}") for number, line in enumerate(lines, start=1)]


def _parsed(line: str, where: str) -> LogRow:
    try:
        row = json.loads(line)
        values = {name: math.nan if value is None else float(value) for name, value in row["values"].items()}
        return {
            "step": int(row["step"]),
            "seconds": float(row["seconds"]),
            "kind": row["kind"],
            "values": values,
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrainingError(f"{where} is no row of a log; remove it.") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """What run.json says: "config", "machine", "id"; empty where there is none or it is damaged."""
    try:
        facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _keep_until(path: Path, step: int) -> float:
    """Drop the rows beyond `step`, all for 0; the seconds of the last one that is left."""
    if not path.exists():
        return 0.0
    rows = [row for row in read_log(path) if row["step"] <= step] if step else []
    lines = [json.dumps(_without_nan(row), allow_nan=False) + "\n" for row in rows]
    write_bytes_atomically(path, "".join(lines).encode())
    return rows[-1]["seconds"] if rows else 0.0


def _without_nan(row: LogRow) -> LogRow:
    return row | {"values": {k: v if math.isfinite(v) else None for k, v in row["values"].items()}}


def _write_facts(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    facts = {
        "id": read_facts(folder).get("id") or secrets.token_hex(4),
        "config": config,
        "machine": machine(),
    }
    write_bytes_atomically(folder / FACTS, json.dumps(facts, indent=1, default=str).encode())
    return facts


def machine() -> dict[str, str]:
    """Versions and hardware, for the reader of a report."""
    cuda = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "processes": os.environ.get("WORLD_SIZE", "1"),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


class _Tensorboard:
    def __init__(self, folder: Path, start_step: int, _config: dict[str, Any], _id: str) -> None:
        _installed("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # what an interrupted run wrote beyond its checkpoint is hidden
        self._writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=start_step + 1 if start_step else 0
        )

    def values(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def image(self, step: int, name: str, path: Path) -> None:
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, _start_step: int, config: dict[str, Any], run_id: str) -> None:
        self._wandb = _installed("wandb")
        try:
            self._run = self._wandb.init(
                project="osediff", name=folder.name, id=run_id, resume="allow", dir=str(folder), config=config
            )
        except Exception as error:  # its own and network errors of many kinds
            raise OptionError(
                f"wandb does not start ({first_line(error)}); log in, set WANDB_MODE=offline, or leave it out of "
                "loggers."
            ) from error
        self._run.define_metric("*", step_metric="step")  # its own counter could not go back for a resume

    def values(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        self._run.log({"step": step} | {f"{kind}/{name}": value for name, value in values.items()})

    def image(self, step: int, name: str, path: Path) -> None:
        self._run.log({"step": step, name: self._wandb.Image(str(path))})

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, type[_Tensorboard] | type[_Wandb]] = {"tensorboard": _Tensorboard, "wandb": _Wandb}


def check_loggers(names: Sequence[str]) -> None:
    """Raises OptionError for a logger that is unknown or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise OptionError(f"There is no logger {name!r}; choose from {', '.join(LOGGERS)}.")
        _installed(name)


def _installed(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(
            f"The logger {name} is not installed; run pip install {name}, or leave it out of loggers."
        ) from error
