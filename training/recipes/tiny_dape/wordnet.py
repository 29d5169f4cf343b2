"""The nouns of WordNet 3.0 (Princeton), read from its own database files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Synset:
    """words: as written in the file, "_" for spaces. hypernyms: offsets of what it is a kind or an instance of."""

    words: tuple[str, ...]
    hypernyms: tuple[int, ...]


class Nouns:
    """All nouns. folder: with data.noun and index.noun (Debian's package wordnet-base: /usr/share/wordnet)."""

    def __init__(self, folder: Path) -> None:
        self.synsets = dict(_synset(line) for line in _lines(folder / "data.noun"))
        self._first = dict(_first_sense(line) for line in _lines(folder / "index.noun"))

    def is_first_sense(self, word: str, offset: int) -> bool:
        """Whether `offset` is what `word` means most often."""
        return self._first.get(word.lower().replace(" ", "_")) == offset

    def closure(self, offset: int) -> list[int]:
        """The synset and all that it is a kind of, nearest first."""
        found: list[int] = []
        waiting = [offset]
        while waiting:
            here = waiting.pop(0)
            if here not in found:
                found.append(here)
                waiting += self.synsets[here].hypernyms
        return found


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]


def _synset(line: str) -> tuple[int, Synset]:
    fields = line.partition("|")[0].split()
    count = int(fields[3], 16)
    pointers = fields[5 + 2 * count :]
    groups = [pointers[i : i + 4] for i in range(0, 4 * int(fields[4 + 2 * count]), 4)]
    hypernyms = tuple(
        int(offset) for symbol, offset, kind, _ in groups if symbol in ("@", "@i") and kind == "n"
    )
    return int(fields[0]), Synset(tuple(fields[4 : 4 + 2 * count : 2]), hypernyms)


def _first_sense(line: str) -> tuple[str, int]:
    fields = line.split()
    return fields[0], int(fields[-int(fields[2])])
