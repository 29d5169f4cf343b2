"""Progress of a run: a bar on a terminal, JSON lines for programs that show it themselves, or nothing."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..interrupts import pass_on
from .streams import say

if TYPE_CHECKING:
    from ..batch.record import Result

logger = logging.getLogger(__name__)

T = TypeVar("T")

_EVERY = 60.0  # seconds


def tell(event: str, **data: Any) -> None:  # noqa: ANN401 - any JSON value
    """One line of JSON on stdout."""
    say(json.dumps({"event": event, **data}).replace("\x7f", r"\u007f"))


def hidden(args: argparse.Namespace) -> bool | None:
    """What tqdm takes as `disable`: None hides the bar where stderr is no terminal."""
    return True if args.quiet or args.no_progress or args.json_lines else None


class Progress(Generic[T]):
    """The items of a run one after the other, each told when it begins, as it goes on, and when it is done."""

    def __init__(self, args: argparse.Namespace, items: Sequence[T], doing: str) -> None:
        from tqdm import tqdm

        self._tells, self._hidden = args.json_lines, bool(hidden(args))
        self._index = -1
        self._doing, self._total, self._done, self._failed = doing, len(items), 0, 0
        self._begun = self._said = time.monotonic()
        self._bar = tqdm(items, desc=doing, unit="picture", disable=hidden(args))
        if self._tells:
            tell("start", command=args.command, total=len(items))

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __iter__(self) -> Iterator[T]:
        """Raises KeyboardInterrupt between two items where one was heard and lost."""
        for index, item in enumerate(self._bar):
            pass_on()
            self._index = index
            yield item
            self._count(1)

    def at(self, index: int) -> Progress[T]:
        """Of which item the next words are, where several are at work."""
        self._index = index
        return self

    def advance(self, count: int = 1) -> None:
        """So many items are done, where nobody iterates."""
        self._bar.update(count)
        self._count(count)

    def begin(self, name: str) -> None:
        """The item of this name is at work."""
        if self._tells:
            tell("picture", index=self._index, input=name)

    def step(self, done: int, total: int) -> None:
        """Tiles of the item. Raises KeyboardInterrupt as `__iter__` does."""
        pass_on()
        self._bar.set_postfix_str(f"tile {done}/{total}{self._failures()}")
        if self._tells:
            tell("step", index=self._index, done=done, total=total)

    def end(self, result: Result) -> None:
        """What became of the item, or of a picture in it."""
        if result.status == "failed":
            self._failed += 1
            self._bar.set_postfix_str(self._failures().lstrip(", "))
        if self._tells:
            tell("result", index=self._index, **asdict(result))

    def _failures(self) -> str:
        return f", {self._failed} failed" if self._failed else ""

    def _count(self, count: int) -> None:
        """Where no bar is seen, as in the log of a job, a line now and then says what it would show."""
        self._done += count
        now = time.monotonic()
        if self._hidden or now - self._said < _EVERY or not self._bar.disable:
            return
        self._said = now
        rate = self._done / (now - self._begun)
        left = timedelta(seconds=round((self._total - self._done) / rate))
        logger.info(
            "%s: %d of %d%s, %.3g a second, %s left",
            self._doing,
            self._done,
            self._total,
            self._failures(),
            rate,
            left,
        )
