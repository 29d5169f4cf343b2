"""Options that the command and each of its runs have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from .figures import DEGRADED, REAL, Evaluation
from .plan import promptings


@dataclass(frozen=True)
class Pictures:
    """What all runs are measured on: a folder of good pictures and one of LR/ and HR/, either of which may be None.

    size, limit: as in Evaluation.
    """

    kodak: Path | None
    pairs: Path | None
    size: int
    limit: int

    def evaluation(self, training: str) -> Evaluation:
        """Of the weights of `training`."""
        given = {DEGRADED: self.kodak, REAL: self.pairs}
        sets = {name: str(folder.resolve()) for name, folder in given.items() if folder is not None}
        return Evaluation(sets, promptings(training), self.size, self.limit)

    def words(self) -> Iterator[str]:
        """The options that say this on a command line."""
        for option in fields(self):
            if getattr(self, option.name) is not None:
                yield from (f"--{option.name}", str(getattr(self, option.name)))

    @classmethod
    def of(cls, args: argparse.Namespace) -> Pictures:
        """What `add_common` read."""
        return cls(args.kodak, args.pairs, args.size, args.limit)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what is measured on, and --set."""
    parser.add_argument("--kodak", type=Path, metavar="DIR", help="good pictures, degraded with fixed seeds")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="real pairs, in LR/ and HR/")
    # 384: NIQE takes blocks of 96 px
    parser.add_argument("--size", type=int, default=384, help="px, side of the centre crops (default: 384)")
    parser.add_argument("--limit", type=int, default=100, help="pictures of each of the two (default: 100)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="section.key=value",
        help="a change to ablation.yaml, for all variants",
    )
