"""Which picture is sample n: a function of the seed and n, so that workers, ranks and resumed runs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_BLOCK = 4096  # samples whose sources are drawn together


class Purpose(IntEnum):
    """What a generator draws: it keeps the streams of one seed apart."""

    SOURCES = 0
    ORDER = 1
    WINDOW = 2
    CROP = 3
    DROPOUT = 4
    REPLACEMENT = 5


def generator(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """A generator of its own for every (seed, purpose, key)."""
    # Four words at least: degradations and the step's noise use shorter keys of the same seed.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, 0, 0, *key))))


@dataclass(frozen=True)
class Row:
    """A picture of a stream: where it came from, encoded, and its caption."""

    name: str
    data: bytes
    caption: str | None


@dataclass(frozen=True)
class Ticket:
    """What a worker makes sample n of.

    index: picture in the source, or -1 for a stream, whose picture comes along.
    """

    n: int
    source: int
    index: int
    row: Row | None = None


class Sampler:
    """Sources by weight; in each, every picture once an epoch, in an order that each epoch draws anew.

    lengths: pictures of each source; 0 for a stream, which has its own order. weights: relative.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._lengths, self._seed = list(lengths), seed
        self._weights = np.asarray(weights, np.float64) / np.sum(weights)
        self._rewind()
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def place(self, n: int) -> tuple[int, int]:
        """(source, picture) of sample n; picture is -1 for a stream."""
        self._go_to(n // _BLOCK)
        offset = n % _BLOCK
        source = int(self._chosen[offset])
        if not self._lengths[source]:
            return source, -1
        position = int(self._before[source] + np.count_nonzero(self._chosen[:offset] == source))
        epoch, within = divmod(position, self._lengths[source])
        return source, int(self._order(source, epoch)[within])

    def _rewind(self) -> None:
        self._block = -1
        self._before = np.zeros(len(self._lengths), np.int64)  # samples of each source ahead of the block
        self._chosen = np.zeros(0, np.int64)

    def _go_to(self, block: int) -> None:
        """Count through the blocks from where it stands, or from the beginning."""
        if block < self._block:
            self._rewind()
        while self._block < block:
            self._before = self._before + np.bincount(self._chosen, minlength=len(self._lengths))
            self._block += 1
            rng = generator(self._seed, Purpose.SOURCES, self._block)
            self._chosen = rng.choice(len(self._lengths), size=_BLOCK, p=self._weights)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if self._orders.get(source, (-1,))[0] != epoch:
            rng = generator(self._seed, Purpose.ORDER, source, epoch)
            self._orders[source] = epoch, rng.permutation(self._lengths[source])
        return self._orders[source][1]
