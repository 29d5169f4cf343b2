"""Endless batches of pairs, prepared by worker processes, from where a run stands."""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from osediff_core.degrade import draw
from osediff_core.errors import OSEDiffError

from .captions import Captions, Tagger
from .config import DataConfig
from .errors import DataError
from .pairs import Pairs, Sample
from .sampler import Sampler, Ticket
from .sources import open_source

log = logging.getLogger("training")


@dataclass
class Batch:
    """lq (enlarged) and hq (B, 3, R, R) in [-1, 1]; prompts; names of the pictures; numbers of the samples."""

    lq: Tensor
    hq: Tensor
    prompts: list[str]
    names: list[str]
    indices: list[int]


class PairLoader:
    """Iterate it for batches without end.

    Micro-batch m of rank r holds the samples n = (m world + r) batch_size + i: together the ranks see what one process
    with the larger batch sees. skipped: name -> reason of pictures that cannot be used; enlarged: how many were small.
    Raises DataError, OptionError for a degradation that there is not.
    """

    def __init__(
        self,
        config: DataConfig,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        state: dict[str, Any] | None = None,
        tagger: Tagger | None = None,
    ) -> None:
        _check(config)
        self.config, self.batch_size, self.rank, self.world = config, batch_size, rank, world
        self.captions = Captions(config.captions, tagger)
        self.sources = [None if source.streaming else open_source(source) for source in config.sources]
        self.streams = self._open_streams(seed)
        self.sampler = Sampler(
            [len(source) if source is not None else 0 for source in self.sources],
            [source.weight for source in config.sources],
            seed,
        )
        self.pairs = Pairs(config, self.sources, self.captions, seed)
        self.skipped: dict[str, str] = {}
        self.enlarged = 0
        self._state = state or {"batches": 0, "streams": self._stream_states()}
        # where the data stood after each batch that workers are preparing
        self._ahead: deque[dict[str, Any]] = deque()

    def state(self) -> dict[str, Any]:
        """Where the data stand after the last batch that was received; JSON-able."""
        return self._state

    def __iter__(self) -> Iterator[Batch]:
        workers = self.config.workers
        loader = DataLoader(
            self.pairs,
            batch_sampler=_Tickets(self),
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=self.config.prefetch if workers else None,
            persistent_workers=False,
            worker_init_fn=_quiet_worker,
        )
        for samples in loader:
            if isinstance(samples, DataError):
                raise samples
            self._state = self._ahead.popleft()
            self._note(samples)
            yield self._batch(samples)

    def tickets(self) -> Iterator[list[Ticket]]:
        """The batches to come, for the workers."""
        self._ahead.clear()
        for number, found in self._state["streams"].items():
            self.streams[int(number)].load(found)
        streams = {number: iter(stream) for number, stream in self.streams.items()}
        batch = self._state["batches"]
        while True:
            first = (batch * self.world + self.rank) * self.batch_size
            tickets = []
            for n in range(first, first + self.batch_size):
                source, index = self.sampler.place(n)
                streamed = next(streams[source]) if source in streams else None
                tickets.append(Ticket(n, source, index, streamed))
            batch += 1
            self._ahead.append({"batches": batch, "streams": self._stream_states()})
            yield tickets

    def _stream_states(self) -> dict[str, Any]:
        return {str(number): stream.state() for number, stream in self.streams.items()}

    def _open_streams(self, seed: int) -> dict[int, Any]:
        chosen = {number: source for number, source in enumerate(self.config.sources) if source.streaming}
        if not chosen:
            return {}
        from .hub import Stream

        return {number: Stream(source, seed, self.rank, self.world) for number, source in chosen.items()}

    def _note(self, samples: list[Sample]) -> None:
        for sample in samples:
            self.enlarged += sample.enlarged
            for name, reason in sample.skipped:
                if name not in self.skipped:
                    log.warning("skipped %s (%s)", name, reason)
                self.skipped[name] = reason

    def _batch(self, samples: list[Sample]) -> Batch:
        hq = torch.stack([sample.hq for sample in samples])
        prompts = [sample.prompt for sample in samples]
        if None in prompts:
            tags = iter(self.captions.tagger(hq[[prompt is None for prompt in prompts]]))
            prompts = [next(tags) if prompt is None else prompt for prompt in prompts]
        lq = torch.stack([sample.lq for sample in samples])
        return Batch(lq, hq, prompts, [sample.name for sample in samples], [sample.n for sample in samples])


class _Tickets:
    """A batch sampler: it runs in the trainer's process, so that streams are read there, in order."""

    def __init__(self, loader: PairLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[Ticket]]:
        return self._loader.tickets()


def _as_it_is(samples: list[Sample] | DataError) -> list[Sample] | DataError:
    return samples


def _quiet_worker(_worker: int) -> None:
    """One thread; and the trainer alone answers signals, which a terminal or a cluster sends to all processes."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _check(config: DataConfig) -> None:
    if not config.sources:
        raise DataError("data.sources is empty; name at least one folder, list or data set.")
    if config.resolution < 8:
        raise DataError(
            f"data.resolution is {config.resolution}; the crops need 8 pixels or more, such as 512."
        )
    if not 0 <= config.prompt_dropout <= 1:
        raise DataError(f"data.prompt_dropout is {config.prompt_dropout}, but is a probability, 0 to 1.")
    if config.workers < 0 or config.prefetch < 1:
        raise DataError("data.workers must be 0 or more, and data.prefetch 1 or more.")
    if any(not source.weight > 0 for source in config.sources):
        raise DataError("The weight of a source must be above 0; leave out a source that is not wanted.")
    try:
        draw(config.degradation, (config.resolution, config.resolution), config.scale)
    except OSEDiffError as error:
        raise DataError(f"data.degradation: {error}") from error
