"""Settings that changed between a checkpoint and the run that goes on from it: what is taken, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from .config import LoopConfig, RunConfig
from .errors import TrainingError
from .report import flat
from .settings import as_yaml

# They say where a run is and how it was started, not what it is.
_NOT_OF_THE_RUN = {"output", "resume"}
# Everything else of the model is in what the checkpoint trained.
_FREE_OF_MODEL = {
    "model.base_dtype",
    "model.dtype",
    "model.gradient_checkpointing",
    "model.shard_base",
    "model.train_mode",
}
_SAME_VALIDATION = {"validation.every"}


@dataclass(frozen=True)
class Change:
    """A setting, such as optim.clip, and its values in the checkpoint and now."""

    name: str
    old: Any
    new: Any

    @property
    def shown(self) -> tuple[str, str]:
        """(name, "old -> new"), the values as YAML."""
        return self.name, f"{_shown(self.old)} -> {_shown(self.new)}"


def changes_since(saved: Mapping[str, Any], config: LoopConfig) -> list[Change]:
    """What differs from the settings `saved` with a checkpoint; what only one of both knows is left out."""
    old, new = flat(saved), flat(yaml.safe_load(as_yaml(config)))
    return [
        Change(name, old[name], value)
        for name, value in new.items()
        if name in old and old[name] != value and name not in _NOT_OF_THE_RUN
    ]


def check_changes(changes: list[Change], config: LoopConfig, path: object) -> None:
    """Raises TrainingError for what a run cannot change on its way: the checkpoint at `path` would not fit, or mean
    something else."""
    streams = isinstance(config, RunConfig) and any(source.streaming for source in config.data.sources)
    model = [
        change for change in changes if change.name.startswith("model.") and change.name not in _FREE_OF_MODEL
    ]
    data = [
        change
        for change in changes
        if change.name in ("seed", "data.resolution") or (streams and change.name == "data.sources")
    ]
    if not model and not data:
        return
    what = "base, rank or regulariser" if model else "seed, resolution or streamed source"
    refused = "; ".join(": ".join(change.shown) for change in model + data)
    raise TrainingError(
        f"{path} is of a run with another {what} ({refused}); resume it as the config.yaml "
        f"in it says, or begin a new run from its weights.safetensors by model.start_from."
    )


def another_validation(changes: list[Change]) -> bool:
    """Whether figures of validation cannot be compared with those before."""
    return any(
        change.name.startswith("validation.") and change.name not in _SAME_VALIDATION for change in changes
    )


def _shown(value: Any) -> str:  # noqa: ANN401 - any YAML value
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
        .removesuffix("\n...\n")
        .strip()
    )
