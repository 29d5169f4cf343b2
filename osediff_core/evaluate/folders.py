"""Pairs of pictures: folders of results, ground truth and LQ pictures, matched by file name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ImageError, OptionError, explained, some_of
from ..images import find_pictures, left_out_words

# (LQ, ground truth) below a data set's folder: this project's, others', and those that StableSR published
PAIR_FOLDERS = (
    ("LR", "HR"),
    ("lq", "hq"),
    ("LQ", "HQ"),
    ("lr", "hr"),
    ("lq", "gt"),
    ("test_LR", "test_HR"),
    ("test_lr", "test_hr"),
)
_SHAPE_SLACK = 0.02  # by which the ratios of two pictures' sides may differ: those of an LQ are rounded


@dataclass(frozen=True)
class PicturePair:
    """One result with what belongs to it; `name` is the result's file name without suffix."""

    name: str
    result: Path
    truth: Path | None = None
    lq: Path | None = None


@dataclass(frozen=True)
class Pairing:
    """pairs: in order of their names. unpaired: one sentence for each kind of file that was left out.

    left_out: one for each folder that holds pictures of formats that are not read.
    """

    pairs: list[PicturePair]
    unpaired: list[str]
    left_out: list[str] = field(default_factory=list)


def pair_up(results: Path, truth: Path | None = None, lq: Path | None = None) -> Pairing:
    """Pairs the pictures of folders by file name without suffix, or files with each other.

    truth None: nothing to compare with. Raises ImageError for a folder that is not there or holds no pictures, and
    where no result has a partner; OptionError where a name is not unique or files and folders are mixed.
    """
    given = [path for path in (results, truth, lq) if path is not None]
    for path in given:
        if not os.path.exists(path):  # Path's own question fails for a name too long
            raise ImageError(f"{path} does not exist; check the path.")
    if len({os.path.isdir(path) for path in given}) > 1:
        raise OptionError(
            "Some of results, ground truth and LQ are files and some are folders; give all as one kind."
        )
    if not os.path.isdir(results):
        return Pairing([PicturePair(results.stem, results, truth, lq)], [])
    left_out: list[str] = []
    found = pictures_by_name(results, left_out)
    truths = None if truth is None else pictures_by_name(truth, left_out)
    lqs = {} if lq is None else pictures_by_name(lq, left_out)
    names = sorted(found if truths is None else found.keys() & truths.keys())
    unpaired = []
    if truths is not None:
        unpaired += _alone(found, truths, f"no ground truth of that name in {truth}")
        unpaired += _alone(truths, found, f"no result of that name in {results}")
    if lq is not None:
        unpaired += _alone(names, lqs, f"no LQ picture of that name in {lq}", "not compared with bicubic")
    if not names:
        raise ImageError(f"No picture in {results} has the name of one in {truth}; name them alike.")
    pairs = [PicturePair(name, found[name], (truths or {}).get(name), lqs.get(name)) for name in names]
    return Pairing(pairs, unpaired, left_out)


def pictures_by_name(folder: Path, left_out: list[str] | None = None) -> dict[str, Path]:
    """The pictures directly in `folder` by file name without suffix.

    left_out: gets a sentence where there are pictures of formats that are not read. Raises ImageError where there are
    none, OptionError where two differ in their suffix only.
    """
    found: dict[str, Path] = {}
    others: list[Path] = []
    with explained(ImageError, f"{folder} cannot be read", "check the path"):
        files = list(find_pictures(folder, left_out=others.append))
    if others and left_out is not None:
        left_out.append(f"{folder}: {left_out_words(others)}.")
    for path in files:
        if path.stem in found:
            raise OptionError(f"{found[path.stem]} and {path} have the same name; remove or rename one.")
        found[path.stem] = path
    if not found:
        words = f" that can be read ({left_out_words(others)})" if others else ""
        raise ImageError(f"The folder {folder} holds no pictures{words}; check the path.")
    return found


def pair_folders(folder: Path) -> tuple[Path, Path] | None:
    """The sub-folders of LQ pictures and of their ground truth in a data set; None if there are no such."""
    for lq, truth in PAIR_FOLDERS:
        if (folder / lq).is_dir() and (folder / truth).is_dir():
            return folder / lq, folder / truth
    return None


def of_one_shape(large: tuple[int, int], small: tuple[int, int]) -> bool:
    """Whether a picture of size `large` can be the one of size `small`, enlarged. Sizes: (width, height)."""
    across, down = large[0] / small[0], large[1] / small[1]
    return abs(across / down - 1) <= _SHAPE_SLACK


def _alone(names: Iterable[str], partners: Mapping[str, Path], why: str, then: str = "left out") -> list[str]:
    """One sentence about those of `names` that have no partner, or none."""
    alone = sorted(set(names) - partners.keys())
    if not alone:
        return []
    have = "has" if len(alone) == 1 else "have"
    return [f"{some_of(alone)} {have} {why}: {then}."]
