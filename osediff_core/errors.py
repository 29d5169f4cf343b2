"""The errors a user may meet: each carries one sentence that says what is wrong and what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from .printable import sentence

_PACKAGE = "osediff_core"


class OSEDiffError(Exception):
    """Any failure this package explains; catch it to catch them all.

    Its message is one line that may be printed anywhere, whatever it quotes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(sentence(message))

    def __init_subclass__(cls) -> None:
        cls.__module__ = _public_module(cls.__module__)


def _public_module(name: str) -> str:
    """ComfyUI imports a pack under the path of its folder, and shows the name of an error with it."""
    return name[max(0, name.rfind(_PACKAGE)) :]


OSEDiffError.__module__ = _public_module(__name__)


class CheckpointError(OSEDiffError):
    """A file of OSEDiff weights is not what it should be, or does not fit the base model."""


class BaseModelError(OSEDiffError):
    """A base model cannot be found, read, or used here."""


class DownloadError(OSEDiffError):
    """A published file cannot be fetched, or what arrived is not what was published."""


class ImageError(OSEDiffError):
    """An image cannot be read, written, or processed as it is."""


class OptionError(OSEDiffError):
    """An option has a value that is not possible, alone or beside the others."""


class OutOfMemory(OSEDiffError):
    """The device has too little memory for what was asked."""


class OutOfDisk(OSEDiffError):
    """Intermediate results that do not fit in memory do not fit on the disk either."""


class DiskFull(ImageError, CheckpointError, DownloadError):
    """The disk takes no further result, picture or file: it is full, over its quota, read-only or failing."""


class NonFiniteError(OSEDiffError):
    """A stage gave NaN or infinity even when computed in fp32."""


class WorkerDied(OSEDiffError):
    """A process ended while it worked on a picture, or before it could."""


def first_line(error: BaseException) -> str:
    """What a library says is wrong, short enough for one sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def unforeseen(error: BaseException) -> str:
    """What an error without an explanation is called, as a clause."""
    return sentence(f"{type(error).__name__}: {first_line(error)}")


# What the next file that is written there meets as well
_OF_THE_DISK = {errno.ENOSPC, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def explained(kind: type[OSEDiffError], finding: str, remedy: str) -> Iterator[None]:
    """An OSError inside becomes one sentence: "{finding} ({the system's reason}); {remedy}.".

    So does a NUL in a path, which Python refuses before the system sees it.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "null" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        raise kind(f"{finding} ({reason}); {remedy}.") from error


@contextmanager
def writing(kind: type[OSEDiffError], finding: str, remedy: str) -> Iterator[None]:
    """As `explained`, around the writing of a result; DiskFull where the disk takes no other either."""
    with explained(kind, finding, remedy):
        try:
            yield
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            why = error.strerror or first_line(error)
            raise DiskFull(f"{finding} ({why}); free space on the disk, or write to another one.") from error


NAMED = 5  # in a message about many


def some_of(names: Sequence[str]) -> str:
    """The first of them and how many there are besides: with a wrong file there are hundreds."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def counted(kinds: Mapping[str, Sequence[str]]) -> str:
    """What is wrong, by kind: "2 missing (a, b); 1 unexpected (c)"."""
    return "; ".join(f"{len(names)} {kind} ({some_of(names)})" for kind, names in kinds.items() if names)


def amount(count: int, noun: str) -> str:
    """How many, as 1 picture, 2 pictures."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
