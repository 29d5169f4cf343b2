"""The data of a run, from where it stands: batches without end, and a position that its checkpoints keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

from ..data import PairLoader
from ..data.loader import samples_counted, state_of_rank
from .config import RunConfig
from .start import Run

Batch_co = TypeVar("Batch_co", covariant=True)


class Data(Protocol[Batch_co]):
    """What the loop takes batches from."""

    def __iter__(self) -> Iterator[Batch_co]:
        """Batches without end, from where the data stand."""
        ...

    def state(self) -> dict[str, Any]:
        """Where this rank's data stand after the last batch that was received; JSON-able."""
        ...

    def figures(self) -> dict[str, float]:
        """What the log says of them."""
        ...


def open_pairs(run: Run[RunConfig]) -> PairLoader:
    """The pairs that the settings name, from the sample on where the checkpoint stands. Raises DataError."""
    config, state = run.config, None
    if run.checkpoint is not None:
        states = run.checkpoint.values["data"]
        batch = run.checkpoint.settings.get("batch", config.batch)
        states = [samples_counted(state, batch, len(states)) for state in states]
        state = state_of_rank(states, run.rank, run.world)
    return PairLoader(config.data, config.batch, config.seed, run.rank, run.world, state, device=run.device)
