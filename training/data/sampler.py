"""Which picture is sample n: a function of the seed and n, so that workers, ranks and resumed runs agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 4096  # samples whose sources are drawn together
_SOURCES, _ORDER = 0, 1  # what a generator is for


@dataclass(frozen=True)
class Ticket:
    """What a worker makes sample n of.

    index: picture in the source, or -1 for a stream, whose picture comes along as (name, encoded, caption).
    """

    n: int
    source: int
    index: int
    streamed: tuple[str, bytes, str | None] | None = None


class Sampler:
    """Sources by weight; in each, every picture once an epoch, in an order that each epoch draws anew.

    lengths: pictures of each source; 0 for a stream, which has its own order.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._lengths, self._seed = list(lengths), seed
        self._weights = np.asarray(weights, np.float64) / np.sum(weights)
        self._block = -1
        self._before = np.zeros(len(lengths), np.int64)  # samples of each source ahead of the block
        self._chosen = np.zeros(0, np.int64)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def place(self, n: int) -> tuple[int, int]:
        """(source, picture) of sample n; picture is -1 for a stream."""
        self._go_to(n // _BLOCK)
        offset = n % _BLOCK
        source = int(self._chosen[offset])
        if not self._lengths[source]:
            return source, -1
        position = int(self._before[source] + (self._chosen[:offset] == source).sum())
        epoch, within = divmod(position, self._lengths[source])
        return source, int(self._order(source, epoch)[within])

    def _go_to(self, block: int) -> None:
        """Count through the blocks from where it stands, or from the beginning."""
        if block < self._block:
            self._block, self._before = -1, np.zeros_like(self._before)
            self._chosen = np.zeros(0, np.int64)
        while self._block < block:
            self._before = self._before + np.bincount(self._chosen, minlength=len(self._lengths))
            self._block += 1
            self._chosen = self._choose(self._block)

    def _choose(self, block: int) -> np.ndarray:
        if len(self._lengths) == 1:
            return np.zeros(_BLOCK, np.int64)
        return np.random.default_rng([self._seed, _SOURCES, block]).choice(
            len(self._lengths), size=_BLOCK, p=self._weights
        )

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if self._orders.get(source, (-1,))[0] != epoch:
            rng = np.random.default_rng([self._seed, _ORDER, source, epoch])
            self._orders[source] = epoch, rng.permutation(self._lengths[source])
        return self._orders[source][1]
