"""Endless batches of pairs, prepared by worker processes, from where a run stands."""

from __future__ import annotations

import atexit
import logging
import os
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from osediff_core.errors import OSEDiffError

from .captions import Captions, Tagger
from .config import DataConfig, check_data
from .errors import DataError
from .pairs import Made, Pairs
from .sampler import Row, Sampler, Ticket
from .sources import open_source

log = logging.getLogger("training")


@dataclass
class Batch:
    """lq (enlarged) and hq (B, 3, R, R) in [-1, 1]; prompts; names of the pictures; numbers of the samples.

    target: a teacher's pictures, as hq, where data.sources has some.
    """

    lq: Tensor
    hq: Tensor
    prompts: list[str]
    names: list[str]
    indices: list[int]
    target: Tensor | None = None


@dataclass
class Report:
    """What this process met: skipped is name -> reason, small the names of pictures that were enlarged."""

    skipped: dict[str, str] = field(default_factory=dict)
    small: dict[str, None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """In types that JSON has: the skipped pictures, and how many of both there are."""
        counts = {"skipped_pictures": len(self.skipped), "small_pictures": len(self.small)}
        return {**counts, "skipped": dict(self.skipped)}


@dataclass
class _Ahead:
    """A batch that workers prepare, and where the data stand after it."""

    tickets: list[Ticket]
    windows: list[list[Row]]
    state: dict[str, Any]


class PairLoader:
    """Iterate it for batches without end; a second iteration goes on where the first one's last batch was received.

    A micro-batch takes the next world x batch_size samples, rank r the r-th batch_size of them: together the ranks see
    what one process with the larger batch sees (streams are shared out by `datasets` instead). state: of a run with
    the same sources and seed; the batch size may be another, and without streams the number of ranks, too.
    device: of the tagger, and where batches go next: for CUDA they lie in pinned memory. tagger: instead of the one
    that data.captions names.
    Raises DataError, here and on iteration.
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
        device: torch.device | str = "auto",
    ) -> None:
        check_data(config, seed)
        self.config, self.batch_size, self.rank, self.world = config, batch_size, rank, world
        self.captions = Captions(config.captions, tagger, device)
        self.pinned = torch.device("cpu" if device == "auto" else device).type == "cuda"
        self.report = Report()
        self.sources = [None if source.streaming else open_source(source) for source in config.sources]
        self._check_sources()
        self.streams = self._open_streams(seed)
        lengths = [0 if source is None else len(source) for source in self.sources]
        self.sampler = Sampler(lengths, [source.weight for source in config.sources], seed)
        self.pairs = Pairs(config, self.sources, self.captions, seed)
        self._state = samples_counted(state, batch_size, world) if state else self._stand(0, lengths)
        if self._state.get("lengths", lengths) != lengths or len(self._state["streams"]) != len(self.streams):
            log.warning("the sources hold other pictures than when the run was saved: it goes on with these")
        self._lengths = lengths
        self._ahead: deque[_Ahead] = deque()

    @property
    def skipped(self) -> dict[str, str]:
        """name -> reason of pictures that cannot be used."""
        return self.report.skipped

    def figures(self) -> dict[str, float]:
        """How many pictures were skipped, and how many were small."""
        return {"skipped": float(len(self.report.skipped)), "enlarged": float(len(self.report.small))}

    def check_multiple(self, multiple: int) -> None:
        """Raises DataError where the resolution is not divisible by what the base needs."""
        side = self.config.resolution
        if side % multiple:
            raise DataError(
                f"data.resolution is {side}, but the base needs a multiple of {multiple}; take "
                f"{-(-side // multiple) * multiple}."
            )

    def state(self) -> dict[str, Any]:
        """Where the data stand after the last batch that was received; JSON-able."""
        return self._state

    def __iter__(self) -> Iterator[Batch]:
        workers = self.config.workers
        ending = torch.multiprocessing.Event()
        atexit.register(ending.set)
        loader = DataLoader(
            self.pairs,
            batch_sampler=_Tickets(self),
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=self.config.prefetch if workers else None,
            worker_init_fn=partial(_quiet_worker, ending),
            pin_memory=self.pinned,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        try:
            for made in loader:
                if isinstance(made, OSEDiffError):
                    raise made
                ahead = self._ahead.popleft()
                self.pairs.fill(made, ahead.tickets, ahead.windows)
                self._note(made)
                batch = self._batch(made, [ticket.n for ticket in ahead.tickets])
                self._state = ahead.state
                yield batch
        finally:
            ending.set()
            atexit.unregister(ending.set)

    def tickets(self) -> Iterator[list[Ticket]]:
        """The batches to come, for the workers."""
        self._ahead.clear()
        for number, found in self._state["streams"].items():
            if int(number) in self.streams:
                self.streams[int(number)].load(found)
        rows = {number: stream.rows() for number, stream in self.streams.items()}
        samples = self._state["samples"]
        while True:
            first = samples + self.rank * self.batch_size
            tickets, windows = [], []
            for n in range(first, first + self.batch_size):
                source, index = self.sampler.place(n)
                row, window = next(rows[source]) if source in rows else (None, [])
                tickets.append(Ticket(n, source, index, row))
                windows.append(window)
            samples += self.world * self.batch_size
            self._ahead.append(_Ahead(tickets, windows, self._stand(samples, self._lengths)))
            yield tickets

    def _stand(self, samples: int, lengths: list[int]) -> dict[str, Any]:
        """samples: of all ranks together, the number of the next one."""
        streams = {str(number): stream.state() for number, stream in self.streams.items()}
        return {"samples": samples, "streams": streams, "lengths": lengths}

    def _check_sources(self) -> None:
        """Note what was left out already, and whether listed captions are of these pictures at all."""
        for source, config in zip(self.sources, self.config.sources, strict=True):
            if source is None:
                continue
            for name, reason in source.skipped.items():
                self._skip(name, reason)
            if self.captions.kind == "file" and not any(map(self.captions.knows, _names(source))):
                raise DataError(
                    f"The captions {self.captions.value} name no picture of {config.path}; make them by python -m "
                    "training.caption with the same path."
                )

    def _open_streams(self, seed: int) -> dict[int, Any]:
        chosen = {number: source for number, source in enumerate(self.config.sources) if source.streaming}
        if not chosen:
            return {}
        from .hub import Stream

        return {
            number: Stream(source, number, seed, self.rank, self.world) for number, source in chosen.items()
        }

    def _note(self, made: Made) -> None:
        for name, reason in made.skipped:
            self._skip(name, reason)
        new = [name for name in dict.fromkeys(made.small) if name not in self.report.small]
        for name in new:
            log.info("enlarged %s: it is smaller than %d px", name, self.config.resolution)
        self.report.small.update(dict.fromkeys(new))

    def _skip(self, name: str, reason: str) -> None:
        if name not in self.report.skipped:
            log.warning("skipped %s: %s", name, reason)
        self.report.skipped[name] = reason

    def _batch(self, made: Made, numbers: list[int]) -> Batch:
        untagged = [place for place, prompt in enumerate(made.prompts) if prompt is None]
        if untagged:
            assert self.captions.tagger is not None
            tags = list(self.captions.tagger(made.hq[untagged]))
            if len(tags) != len(untagged):
                raise DataError(
                    f"The tagger gave {len(tags)} texts for {len(untagged)} pictures; it must give one each."
                )
            for place, text in zip(untagged, tags, strict=True):
                made.prompts[place] = text
        return Batch(
            made.lq, made.hq, [prompt or "" for prompt in made.prompts], made.names, numbers, made.target
        )


def samples_counted(state: dict[str, Any], batch_size: int, world: int) -> dict[str, Any]:
    """A loader's state that counts samples. Older ones count batches, which were of `batch_size` on `world` ranks."""
    if "samples" in state:
        return state
    rest = {name: value for name, value in state.items() if name != "batches"}
    return {"samples": state["batches"] * world * batch_size, **rest}


def state_of_rank(states: list[dict[str, Any]], rank: int, world: int) -> dict[str, Any]:
    """Where rank `rank` of `world` goes on from the states of all ranks of a run.

    Raises DataError where streams were shared out to another number of ranks.
    """
    if len(states) == world:
        return states[rank]
    if any(state["streams"] for state in states):
        raise DataError(
            f"The run had {len(states)} processes, not {world}, and a stream is shared out to a fixed number of them; "
            f"resume it with {len(states)}, or leave out streaming."
        )
    return states[0]


class _Tickets:
    """A batch sampler: it runs in the trainer's process, so that streams are read there, in order."""

    def __init__(self, loader: PairLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[Ticket]]:
        return self._loader.tickets()


def _as_it_is(made: Any) -> Any:  # noqa: ANN401 - Made, or why there is none
    return made


def _quiet_worker(ending: Event, _worker: int) -> None:
    """The trainer alone answers signals, which a terminal or a cluster sends to all processes.

    Once it is `ending`, SIGTERM is its own word to a worker that is late, and it waits until the worker is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if ending.is_set() else None)


def _names(source: Any) -> Iterator[str]:  # noqa: ANN401 - a Source
    return (source.name(index) for index in range(len(source)))
