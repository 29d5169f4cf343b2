"""Attempts at pictures, counted apart from those who try: a picture may end them."""

from __future__ import annotations

from collections import Counter

WHOLE = ""  # instead of a picture's name: the file itself


class Attempts:
    """An actor. Only jobs that are at work, or whose worker died, take memory."""

    def __init__(self) -> None:
        self.at: dict[int, str] = {}  # job -> which of its pictures is at work
        self.deaths: dict[int, Counter[str]] = {}

    def begin(self, index: int) -> dict[str, int]:
        """Work on a job begins. How many workers died of each of its pictures, before."""
        if index in self.at:
            self.deaths.setdefault(index, Counter())[self.at[index]] += 1
        self.at[index] = WHOLE
        return dict(self.deaths.get(index, {}))

    def reach(self, index: int, name: str) -> None:
        """The picture of this name is next."""
        self.at[index] = name

    def end(self, index: int) -> None:
        """The work came to its end, whatever came of it."""
        self.at.pop(index, None)
        self.deaths.pop(index, None)
