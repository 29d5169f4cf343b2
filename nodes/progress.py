"""The progress of a node: one bar over all its frames and their parts, and the time left where that is long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

import comfy.model_management
import comfy.utils
from tqdm import tqdm

from .notices import show

_PATIENCE = 5.0  # seconds of work before a person is told how many more
_EVERY = 1.0  # seconds between two tellings


class Clock:
    """The time left: on the node, and as a bar in the log as ComfyUI's samplers have it.

    work: its name. total: parts of the whole. quiet: nothing in the log.
    """

    def __init__(self, work: str, total: int, quiet: bool = False) -> None:
        self.total, self._work = total, work
        self._began, self._told = time.monotonic(), 0.0
        off = quiet or not comfy.utils.PROGRESS_BAR_ENABLED
        self._log = tqdm(total=total, desc=work, delay=_PATIENCE, disable=off)

    def __enter__(self) -> Clock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._log.close()
        if self._told:
            taken = tqdm.format_interval(time.monotonic() - self._began)
            show(f"{self._work} took {taken}." if kind is None else "")

    def update(self, done: float) -> None:
        """done: parts, of `total`; it only grows."""
        if not self._log.disable:
            self._log.update(done - self._log.n)
        now = time.monotonic()
        spent = now - self._began
        if not 0 < done < self.total or spent < _PATIENCE or now - self._told < _EVERY:
            return
        self._told = now
        left = spent * (self.total - done) / done
        show(f"{self._work}: {100 * done / self.total:.0f} %, about {tqdm.format_interval(left)} left")


class Bar:
    """One bar for all frames of a node, each done in parts or at once; it never goes back, and ends full."""

    def __init__(self, work: str, frames: int) -> None:
        self._work, self._frames = work, frames
        self._frame = self._value = 0
        self._parts = 0  # a frame has; 0 until that is known
        self._bar = comfy.utils.ProgressBar(frames)

    def frames(self) -> Iterator[int]:
        """0 to frames - 1; an interruption is noticed before each."""
        with Clock(self._work, self._frames) as self._clock:
            for frame in range(self._frames):
                self._frame = frame
                comfy.model_management.throw_exception_if_processing_interrupted()
                yield frame
                self._advance(1.0)

    def parts(self, done: int, total: int) -> None:
        """Told by the core as parts of the frame are done; an interruption is noticed after each."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._parts = self._parts or total  # where memory is short, the frame begins anew in more parts
        self._advance(done / total)

    def _advance(self, share: float) -> None:
        """share: of the frame."""
        parts = self._parts or 1
        self._value = max(self._value, round((self._frame + share) * parts))
        self._bar.update_absolute(self._value, self._frames * parts)
        self._clock.update(self._value / parts)


def each_frame(work: str, count: int) -> Iterator[int]:
    """0 to count - 1, with a bar; an interruption is noticed before each."""
    return Bar(work, count).frames()
