"""Shards of a batch: which of several runs, each with the same command line, does which picture."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """The `number`-th (from 1) of `count` shards."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "3/32". Raises ValueError, a clause."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not found:
            raise ValueError("is not I/N, for example 3/32")
        number, count = map(int, found.groups())
        if not 1 <= number <= count:
            raise ValueError(f"has no shard of that number; they count from 1, as 1/{max(1, count)}")
        return cls(number, count)

    def has(self, name: str) -> bool:
        """Whether a picture is in this shard: by its name alone, so that it is in one on every machine, and stays."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1
