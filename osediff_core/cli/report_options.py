"""Options of commands that measure pictures and report on them."""

from __future__ import annotations

from collections.abc import Callable

from ..evaluate.metrics import DEFAULT, METRICS
from .options import natural


def add_metrics(add: Callable[..., object]) -> None:
    """What is measured; `parse_metrics` reads it."""
    add(
        "--metrics",
        default=",".join(DEFAULT),
        metavar="NAMES",
        help=f"osediff (the paper's nine), or some of {', '.join(METRICS)} (default: osediff,d2)",
    )


def add_report(add: Callable[..., object], most: int, chosen: str = "") -> None:
    """How it is shown. most: pictures in the report; chosen: words on which these are."""
    add("--seed", type=natural, default=0, metavar="N", help="of the bootstrap intervals (default: 0)")
    add("--title", type=str, metavar="TEXT", help="of the report (default: the folder's name)")
    add(
        "--report-pictures",
        type=natural,
        default=most,
        metavar="N",
        help=f"at most so many pictures in the report{chosen} (default: {most})",
    )
