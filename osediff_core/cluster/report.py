"""Report on a manifest: what became of how many pictures, how fast, on which machine, and which went wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError, first_line

Row = Mapping[str, Any]

_SHOWN = 10  # of the slowest and of the failed
_BINS = 60


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Plain JSON types. seconds: of a picture that was done; rate: pictures a second from the first end to the last."""
    done = [row for row in rows if row["seconds"] is not None]
    seconds = np.array([row["seconds"] for row in done], float)
    failed = [row for row in rows if row["status"] == "failed"]
    worst = sorted(done, key=lambda row: -row["seconds"])[:_SHOWN]
    return {
        "pictures": len(rows),
        "by_status": dict(Counter(row["status"] for row in rows)),
        "seconds": _spread(seconds),
        "nodes": [_node(name, of_it) for name, of_it in sorted(_by(done, "node").items())],
        "again": sum((row["attempt"] or 1) > 1 for row in rows),
        "errors": dict(Counter(row["kind"] for row in failed).most_common()),
        "failed": [{"input": row["input"], "error": row["error"]} for row in failed],
        "slowest": [{"input": row["input"], "seconds": row["seconds"], "node": row["node"]} for row in worst],
    }


def _by(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[name] or "?"].append(row)
    return found


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    median, most = np.percentile(values, [50, 95])
    return {
        "mean": float(values.mean()),
        "median": float(median),
        "p95": float(most),
        "max": float(values.max()),
    }


def _node(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    ends = [row["ended"] for row in rows]
    span = max(ends) - min(ends)
    return {
        "node": name,
        "pictures": len(rows),
        "first": min(ends),
        "last": max(ends),
        "rate": (len(rows) - 1) / span if span else None,
        "seconds": _spread(np.array([row["seconds"] for row in rows], float)),
    }


def as_text(found: Mapping[str, Any]) -> list[str]:
    """Tables for a terminal."""
    counts = ", ".join(f"{count} {status}" for status, count in found["by_status"].items())
    lines = [f"{found['pictures']} pictures: {counts or 'none'}"]
    if found["again"]:
        lines.append(f"{found['again']} took more than one attempt")
    if found["nodes"]:
        head = ("node", "pictures", "a second", "median s", "95 % s", "from", "for")
        lines += ["", *_table([head, *map(_cells, found["nodes"])])]
    if found["errors"]:
        lines += ["", *_table([("error", "pictures"), *((k, str(n)) for k, n in found["errors"].items())])]
        lines += [f"  {one['error']}" for one in found["failed"][:_SHOWN]]
        more = len(found["failed"]) - _SHOWN
        lines += [f"  and {more} more, see --json"] if more > 0 else []
    if found["slowest"]:
        slow = [(one["input"], f"{one['seconds']:.3g}", one["node"]) for one in found["slowest"]]
        lines += ["", *_table([("slowest", "s", "node"), *slow])]
    return lines


def _cells(node: Mapping[str, Any]) -> tuple[str, ...]:
    seconds, rate = node["seconds"], node["rate"]
    start = datetime.fromtimestamp(node["first"], timezone.utc)
    return (
        node["node"],
        str(node["pictures"]),
        "" if rate is None else f"{rate:.3g}",
        f"{seconds['median']:.3g}",
        f"{seconds['p95']:.3g}",
        f"{start:%Y-%m-%d %H:%M:%S} UTC",
        str(timedelta(seconds=round(node["last"] - node["first"]))),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Pictures done over time, by node, and how long one took, as PNG, SVG or PDF. Raises OptionError."""
    try:
        import matplotlib
    except ImportError as error:
        raise OptionError(
            f"--plot needs matplotlib ({first_line(error)}); install it: pip install 'osediff[cluster]'."
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = [row for row in rows if row["seconds"] is not None]
    if not done:
        raise OptionError(
            "Nothing in the manifest was done, so that there is nothing to plot; leave out --plot."
        )
    start = min(row["ended"] for row in done)
    figure, (over_time, spread) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, of_it in sorted(_by(done, "node").items()):
        ends = sorted(row["ended"] - start for row in of_it)
        over_time.step(ends, range(1, len(ends) + 1), where="post", label=name)
    over_time.set(xlabel="seconds", ylabel="pictures done", title=f"{len(done)} pictures")
    over_time.legend()
    spread.hist([row["seconds"] for row in done], bins=_BINS)
    spread.set(xlabel="seconds a picture", ylabel="pictures")
    try:
        figure.savefig(path)
    except ValueError as error:
        raise OptionError(f"--plot {path}: {first_line(error)}.") from error
    finally:
        pyplot.close(figure)
