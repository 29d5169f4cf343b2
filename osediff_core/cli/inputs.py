"""Inputs of a run: the pictures that files, folders, lists, prefixes and patterns on its command line stand for."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from ..batch.job import CONTAINERS
from ..batch.places import STREAM, Place, Remote, files_below, kind_of, place_of, read_bytes
from ..errors import ImageError, OptionError, first_line

logger = logging.getLogger(__name__)

LIST = ".txt"  # a picture's path or URI a line
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")

Unreadable = tuple[Place, str]  # an input that gives no job, and the sentence that says why
Named = tuple[Place, PurePath]  # a picture, and its path relative to the folder or list it is from


@dataclass
class Inputs:
    """pictures: also files that hold many. left_out: pictures in folders whose format is not read. folders: an input
    is one, or a list or pattern.
    """

    pictures: list[Named] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    left_out: list[Place] = field(default_factory=list)
    folders: bool = False


def find_inputs(inputs: Sequence[str], *, recursive: bool = False, results: Place | None = None) -> Inputs:
    """Every picture of files, folders and lists once, without those below `results`; what is left out is said.

    Raises OptionError for a pattern or URI that cannot be one.
    """
    found = Inputs()
    for given in inputs:
        try:
            for place in _expanded(given, found):
                _look(place, found, recursive, results)
        except ImageError as error:
            found.unreadable.append((place_of(given), str(error)))
    if recursive and not found.folders:
        logger.warning("--recursive has no effect, as no input is a folder")
    once = {same(picture[0]): picture for picture in reversed(found.pictures)}  # named twice is one
    found.pictures = list(once.values())[::-1]
    return found


def same(place: Place) -> str:
    """Equal for two spellings of one place."""
    if isinstance(place, Remote) or place == STREAM:
        return str(place)
    return os.path.normcase(os.path.realpath(place))


def _expanded(given: str, found: Inputs) -> Iterable[Place]:
    """What a shell would make of {000..012} and *, which it does not where they are quoted, or remote."""
    if os.path.lexists(given):
        return [Path(given)]
    texts = [given]
    if _BRACES.search(given):
        try:
            from braceexpand import braceexpand

            texts = list(braceexpand(given))
        except ImportError as error:
            raise OptionError(
                f"{given} needs braceexpand ({first_line(error)}); install it: pip install 'osediff[cluster]'."
            ) from error
        except ValueError:  # braces that do not pair belong to the name
            pass
    places = [place_of(text) for text in texts]
    found.folders |= len(places) > 1
    return [one for place in places for one in _globbed(place, found)]


def _globbed(place: Place, found: Inputs) -> Iterable[Place]:
    if not isinstance(place, Remote) or not re.search(r"[*[]", place.path):
        return [place]
    found.folders = True
    top = place
    while re.search(r"[*[]", top.path):
        top = top.parent
    depth = place.path.count("/")
    listed = (one for one, _ in files_below(top, recursive=depth > top.path.count("/") + bool(top.path)))
    fitting = [
        one for one in listed if one.path.count("/") == depth and fnmatch.fnmatchcase(one.path, place.path)
    ]
    if not fitting:
        raise ImageError(f"Nothing fits {place}; check the pattern.")
    return fitting


def _look(place: Place, found: Inputs, recursive: bool, results: Place | None) -> None:
    """Raises ImageError."""
    if place == STREAM:
        found.pictures.append((STREAM, PurePosixPath("stdin")))
        return
    if isinstance(place, Remote):
        kind = kind_of(place)
    else:
        kind = "folder" if os.path.isdir(place) else "file" if os.path.exists(place) else None
    if kind is None:
        raise ImageError(f"{place} does not exist; check the path.")
    if kind == "folder":
        found.folders = True
        _look_into(place, found, recursive, results)
    elif place.suffix.lower() == LIST:
        found.folders = True
        found.pictures += _listed(place, recursive)
    else:
        found.pictures.append((place, PurePosixPath(place.name)))


def _listed(place: Place, recursive: bool) -> list[Named]:
    """The pictures of a list; with recursive, named with the folders that they do not all share.

    Paths are relative to the list's folder, as those of the trainer's lists. Raises ImageError, OptionError.
    """
    try:
        lines = read_bytes(place).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ImageError(f"The list {place} is no text; give one with a path or a URI a line.") from None
    words = [line.strip() for line in lines if line.strip()]
    places = [_beside(place, word) for word in words]
    if not places:
        raise ImageError(f"The list {place} is empty; write a path or a URI a line.")
    if not recursive:
        return [(one, PurePosixPath(one.name)) for one in places]
    texts = [str(one) if isinstance(one, Remote) else os.path.abspath(one) for one in places]
    tops = {text.partition("://")[0] if "://" in text else "" for text in texts}
    common = os.path.commonpath([os.path.dirname(text) for text in texts]) if len(tops) == 1 else ""
    return [
        (
            one,
            PurePosixPath(os.path.relpath(text, common) if common else text.partition("://")[2] or text[1:]),
        )
        for one, text in zip(places, texts, strict=True)
    ]


def _beside(place: Place, word: str) -> Place:
    one = place_of(word)
    if isinstance(one, Remote) or one.is_absolute():
        return one
    return place.parent / word


def _look_into(folder: Place, found: Inputs, recursive: bool, results: Place | None) -> None:
    from ..images import READ_SUFFIXES, left_out_words

    before = len(found.unreadable)
    others: list[Place] = []
    pictures = _below(folder, found, recursive, results, READ_SUFFIXES, others.append)
    if not pictures:  # as a data set's folder of tars; beside pictures such are archives
        pictures = _below(folder, found, recursive, results, CONTAINERS, lambda _: None)
    found.left_out += others
    if others:
        logger.warning("%s: %s", folder, left_out_words(Path(one.name) for one in others))
    if not pictures and len(found.unreadable) == before:
        found.unreadable.append((folder, _no_pictures(folder, recursive, others)))
    found.pictures += pictures


def _no_pictures(folder: Place, recursive: bool, others: Sequence[Place]) -> str:
    if others:
        return (
            f"The folder {folder} holds no pictures that can be read; save them as PNG, JPEG, WebP or TIFF."
        )
    more = "" if recursive else ", or use --recursive for its sub-folders"
    return f"The folder {folder} holds no pictures; check the path{more}."


def _below(
    folder: Place,
    found: Inputs,
    recursive: bool,
    results: Place | None,
    suffixes: Container[str],
    left_out: Callable[[Place], None],
) -> list[Named]:
    """The files of these suffixes in a folder, sorted, without earlier results and hidden files."""
    if isinstance(folder, Remote):
        return _far(folder, recursive, results, suffixes, left_out)
    from ..images import find_pictures

    def refuse(error: OSError) -> None:
        why = error.strerror or error
        text = f"The folder {error.filename} cannot be read ({why}); change its permissions or leave it out."
        refused = (Path(error.filename), text)
        if refused not in found.unreadable:
            found.unreadable.append(refused)

    own = None if results is None else same(results)

    def enter(below: Path) -> bool:
        # results of an earlier run may lie below the input folder; they are no input
        return recursive and not below.name.startswith(".") and same(below) != own

    pictures = find_pictures(folder, enter, refuse, left_out, suffixes)
    return [(path, path.relative_to(folder)) for path in pictures]


def _far(
    folder: Remote,
    recursive: bool,
    results: Place | None,
    suffixes: Container[str],
    left_out: Callable[[Place], None],
) -> list[Named]:
    """As `_below`, of an object store."""
    from ..images.formats import OTHER_SUFFIXES

    own = results if isinstance(results, Remote) and _is_below(results, folder) else None
    pictures: list[Named] = []
    for one, _ in files_below(folder, recursive):
        relative = PurePosixPath(one.path.removeprefix(folder.path).lstrip("/"))
        if any(part.startswith(".") for part in relative.parts) or (own is not None and _is_below(one, own)):
            continue
        if one.suffix.lower() in suffixes:
            pictures.append((one, relative))
        elif one.suffix.lower() in OTHER_SUFFIXES:
            left_out(one)
    return pictures


def _is_below(one: Remote, folder: Remote) -> bool:
    return one.root == folder.root and one.path.startswith(f"{folder.path}/".lstrip("/")) and one != folder
