"""What the student should say of a crop: tags from the teacher's classes, from the photographs' lists, from pixels.

A tag that lists of photographs have is taken from them alone: people looked, the teacher guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from osediff_core.dape.tags import tag_names

from .class_tags import class_tags
from .colours import NAMES, colour_tags
from .photographs import TRAIN, Photograph

TEACHER, LISTED, MEASURED = "teacher", "listed", "measured"
SEEN = 0.5  # probability from which on the teacher has seen a tag
# What a tag needs to be learnt: from the lists, photographs that have it; from the teacher, crops in which it is seen,
# and photographs whose crops have it with this mean probability, as what one photograph alone shows would be that one.
_LISTED_PHOTOS = 3
_CROPS, _PHOTOS, _PROBABILITY = 10, 2, 0.05


@lru_cache
def _index() -> dict[str, int]:
    return {name: number for number, name in enumerate(tag_names())}


def class_matrix() -> np.ndarray:
    """(1000, 4585) of 0 and 1: which tags a class has."""
    matrix = np.zeros((1000, len(tag_names())), np.float32)
    for number, tags in enumerate(class_tags()):
        matrix[number, list(tags)] = 1
    return matrix


@dataclass(frozen=True)
class Vocabulary:
    """tags: indices into RAM's list, rising. kinds: of each, where it is learnt from."""

    tags: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the tags."""
        return [tag_names()[tag] for tag in self.tags]

    def of_kind(self, kind: str) -> np.ndarray:
        """bool (tags,)."""
        return np.array([found == kind for found in self.kinds])


def choose_vocabulary(photographs: list[Photograph], classes: np.ndarray, photos: np.ndarray) -> Vocabulary:
    """The tags that can be learnt from the training crops: classes (N, 1000) of the teacher, photos (N,) numbers."""
    kinds = {_index()[name]: MEASURED for name in NAMES}
    listed = [tag for photo in photographs if photo.split == TRAIN for tag in photo.tags]
    for name in sorted(set(listed)):
        if listed.count(name) >= _LISTED_PHOTOS:
            kinds.setdefault(_index()[name], LISTED)
    likely = np.minimum(classes.astype(np.float32) @ class_matrix(), 1)
    means = np.stack([likely[photos == number].mean(axis=0) for number in np.unique(photos)])
    known = ((likely > SEEN).sum(axis=0) >= _CROPS) & ((means >= _PROBABILITY).sum(axis=0) >= _PHOTOS)
    for tag in np.flatnonzero(known):
        kinds.setdefault(int(tag), TEACHER)
    tags = tuple(sorted(kinds))
    return Vocabulary(tags, tuple(kinds[tag] for tag in tags))


def targets(
    vocabulary: Vocabulary,
    photographs: list[Photograph],
    images: np.ndarray,
    photos: np.ndarray,
    wide: np.ndarray,
    mixed: np.ndarray,
    classes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of `Labels` -> probabilities and weights, fp32 (N, tags).

    Weight 0: not known, as a small crop may or may not show what its photograph shows.
    """
    tags = list(vocabulary.tags)
    wanted = np.minimum(classes.astype(np.float32) @ class_matrix()[:, tags], 1)
    weights = np.ones_like(wanted)
    has = np.array([[name in photo.tags for name in vocabulary.names] for photo in photographs])[photos]
    listed, measured = vocabulary.of_kind(LISTED), vocabulary.of_kind(MEASURED)
    wanted[:, listed] = has[:, listed]
    unknown = np.where(has, ~wide[:, None], mixed[:, None])
    weights[:, listed] = ~unknown[:, listed]
    wanted[:, measured] = measured_targets(vocabulary, images)
    return wanted, weights


def measured_targets(vocabulary: Vocabulary, images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) -> (N, tags that are measured) of 0 and 1."""
    names = np.array(vocabulary.names)[vocabulary.of_kind(MEASURED)]
    found = [colour_tags(image) for image in images]
    return np.array([[name in tags for name in names] for tags in found], np.float32)
