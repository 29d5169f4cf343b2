"""Checkpoints of a run: whole or not at all, the latest few, the best one and those gone back to, without a pickle.

    RUN/checkpoints/step_00000500/
        state.safetensors    trained parameters, averages, Adam's moments
        state.json           step, schedules, loss scales, position in the data, best validation
        config.yaml          the configuration
        weights.safetensors  what is trained, as the core, the nodes and the command read it

No generator's state is needed: every random number of a run follows from its seed and the number of the sample.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically
from osediff_core.documents import parse_json, parse_yaml, read_document
from osediff_core.errors import first_line

from .errors import TrainingError

WEIGHTS = "weights.safetensors"  # unless what is trained has another format
_NAME = re.compile(r"step_(\d{8,})")
_VERSION = 1


@dataclass
class Checkpoint:
    """What a checkpoint holds. values: JSON-able, with "step" in it; settings: of its config.yaml, not checked."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def tensors_of(self, updater: str) -> dict[str, Tensor]:
        """Those of one updater, by its own names."""
        prefix = f"{updater}/"
        return {
            key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)
        }


def save_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    weights: bytes,
    config: str,
    keep: int,
    kept: Collection[int],
    weights_name: str = WEIGHTS,
) -> Path:
    """Write step_N in `folder`; then drop all but the latest `keep` and those of the steps `kept`.

    weights: the content of the file `weights_name`.

    Raises TrainingError (disk full, no permission); older checkpoints are untouched then.
    """
    step = checkpoint.values["step"]
    target = folder / f"step_{step:08d}"
    temporary = folder / f".{target.name}.{secrets.token_hex(4)}"
    files = {
        "state.safetensors": lambda: save(
            {name: tensor.contiguous().cpu() for name, tensor in checkpoint.tensors.items()}
        ),
        weights_name: lambda: weights,
        "config.yaml": config.encode,
        "state.json": json.dumps({"version": _VERSION, **checkpoint.values}, indent=1).encode,
    }
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_bytes_atomically(temporary / name, data())
        _remove(target)  # of an earlier attempt at the same step
        temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        older = latest_checkpoint(folder)
        left = f"the latest one is {older}" if older else "there is none yet"
        raise TrainingError(
            f"The checkpoint of step {step} cannot be written to {folder} ({error.strerror or error}; {left}); free "
            "space or mend the folder and go on with resume=latest."
        ) from error
    _rotate(folder, keep, kept)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The one with the highest step, or None."""
    found = all_checkpoints(folder)
    return found[max(found)] if found else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote. Raises TrainingError for a folder that is none or is damaged."""
    try:
        values = parse_json(read_document(path / "state.json"))
        tensors = load_file(path / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            f"{path} is no whole checkpoint ({first_line(error)}); resume from another one."
        ) from error
    if not isinstance(values, dict) or values.get("version") != _VERSION:
        raise TrainingError(f"{path} was written by another version of the trainer; resume it with that one.")
    if not _is_state(values):
        raise TrainingError(
            f"{path} is no whole checkpoint (state.json says no step, best or data); resume from another one."
        )
    return Checkpoint(tensors, values, saved_settings(path))


def _is_state(values: dict[str, Any]) -> bool:
    """Whether what every run has is there, each of its kind."""
    step, best, data = (values.get(key) for key in ("step", "best", "data"))
    return (
        type(step) is int
        and step >= 0
        and isinstance(best, dict)
        and isinstance(best.get("step"), (int, type(None)))
        and isinstance(best.get("value"), (int, float))
        and isinstance(data, list)
        and bool(data)
        and all(isinstance(state, dict) for state in data)
    )


def saved_settings(path: Path) -> dict[str, Any]:
    """What the checkpoint's config.yaml says, as it stands there; nothing where it is missing or damaged."""
    try:
        settings = parse_yaml(read_document(path / "config.yaml"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process left half written or half deleted."""
    for path in folder.glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)


def all_checkpoints(folder: Path) -> dict[int, Path]:
    """step -> folder of every whole one."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step_*"))
    return {int(match[1]): path for match, path in matches if match and (path / "state.json").exists()}


def _rotate(folder: Path, keep: int, kept: Collection[int]) -> None:
    found = all_checkpoints(folder)
    for step in sorted(found)[:-keep]:
        if step not in kept:
            _remove(found[step])


def _remove(path: Path) -> None:
    """Under another name first: a kill on the way must not leave what looks like a checkpoint."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
