"""Attempts at pictures, counted apart from those who try: a picture may end them."""

from __future__ import annotations


class Attempts:
    """An actor. Only pictures that are at work, or whose worker died, take memory."""

    def __init__(self) -> None:
        self.begun: dict[int, int] = {}

    def begin(self, index: int) -> int:
        """How many tries at this picture have begun, with this one."""
        self.begun[index] = self.begun.get(index, 0) + 1
        return self.begun[index]

    def end(self, index: int) -> None:
        """The try came to its end, whatever came of it."""
        self.begun.pop(index, None)
