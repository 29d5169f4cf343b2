"""Several methods on the same pictures: what each took and how good it is, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import amount
from ..printable import printable
from .bootstrap import Mean
from .evaluation import Evaluation
from .measure import RESULT
from .metric import Metric
from .tables import mean_shown, table_of


@dataclass
class Entry:
    """One method, or a folder of results of whatever made them.

    kind: "one-step", "upscaler", "folder" or "bicubic". title: as its authors call it. source: the file or folder as
    given. results: picture's name -> file. seconds: picture's name -> time from reading to writing, without loading.
    loading: seconds. memory: peak in bytes, the weights included. error: why there are no results. evaluation: over the
    pictures that all entries have.
    """

    name: str
    kind: str
    title: str
    source: str | None = None
    results: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    loading: float | None = None
    memory: int | None = None
    dtype: str | None = None
    error: str | None = None
    evaluation: Evaluation | None = None

    @property
    def median_seconds(self) -> float | None:
        """A picture; None where it was not measured."""
        return median(self.seconds.values()) if self.seconds else None

    def mean(self, metric: Metric) -> Mean | None:
        """The mean score over the pictures that all have."""
        return None if self.evaluation is None else self.evaluation.summary[RESULT].get(metric.name)

    def scores(self, picture: str) -> dict[str, float | None]:
        """Of one picture, by metric."""
        cases = [] if self.evaluation is None else self.evaluation.cases
        return next((case.result for case in cases if case.name == picture), {})


@dataclass
class Comparison:
    """entries: in the order given. pictures: names of those that were compared, with their size (width, height).

    skipped: metric -> why it was left out.
    """

    entries: list[Entry]
    metrics: list[Metric] = field(default_factory=list)
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def best(self, metric: Metric) -> str | None:
        """The name of the entry with the best mean; None where only one has any."""
        means = {e.name: mean.value for e in self.entries if (mean := e.mean(metric)) is not None}
        choose = max if metric.higher else min
        return choose(means, key=lambda name: means[name]) if len(means) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "metrics": [
                {
                    "name": m.name,
                    "title": m.title,
                    "unit": m.unit,
                    "better": "higher" if m.higher else "lower",
                }
                | {"library": m.library, "settings": m.settings}
                for m in self.metrics
            ],
            "skipped": self.skipped,
            "methods": [
                {
                    "name": e.name,
                    "kind": e.kind,
                    "title": e.title,
                    "source": e.source,
                    "dtype": e.dtype,
                    "results": len(e.results),
                    "seconds": e.median_seconds,
                    "loading_seconds": e.loading,
                    "peak_memory": e.memory,
                    "error": e.error,
                    "summary": {m.name: asdict(mean) for m in self.metrics if (mean := e.mean(m))},
                }
                for e in self.entries
            ],
            "pictures": [
                {
                    "name": name,
                    "size": list(size),
                    "methods": {
                        e.name: {"seconds": e.seconds.get(name), "scores": e.scores(name)}
                        for e in self.entries
                        if e.evaluation is not None
                    },
                }
                for name, size in self.pictures.items()
            ],
        }


def rows_of(comparison: Comparison, mark: tuple[str, str] = ("", "")) -> list[list[str]]:
    """The table: a head, then a row for each entry. mark: put around the best of each metric."""
    head = [
        "method",
        "s / picture",
        "loading s",
        "memory GB",
        *(f"{m.title} {m.arrow}" for m in comparison.metrics),
    ]
    best = {m.name: comparison.best(m) for m in comparison.metrics}
    rows = [head]
    for entry in comparison.entries:
        scores = []
        for metric in comparison.metrics:
            shown = mean_shown(metric, entry.mean(metric))
            scores.append(shown.join(mark) if best[metric.name] == entry.name else shown)
        rows.append([_label(entry), *(_shown(*cost) for cost in _costs(entry)), *scores])
    return rows


def _label(entry: Entry) -> str:
    same = entry.title.lower() == entry.name.lower()
    return printable(entry.name if same else f"{entry.name} ({entry.title})")


def _costs(entry: Entry) -> list[tuple[float | None, int]]:
    memory = None if entry.memory is None else entry.memory / 1e9
    return [(entry.median_seconds, 3), (entry.loading, 1), (memory, 2)]


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def comparison_text(comparison: Comparison) -> str:
    """The table for a terminal."""
    rows = rows_of(comparison)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def comparison_markdown(comparison: Comparison, title: str, remarks: Sequence[str] = ()) -> str:
    """The table with the best of each metric in bold, and what is to be known of it."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows_of(comparison, ("**", "**"))]
    settings = "; ".join(f"{m.title}: {m.settings} ({m.library})" for m in comparison.metrics)
    words = (
        f"Means over {amount(len(comparison.pictures), 'picture')} that all have. {about_costs()} {settings}."
    )
    parts = [f"# {printable(title)}", words, table_of(rows)]
    if remarks:
        parts.append("\n".join(f"- {printable(line)}" for line in remarks))
    return "\n\n".join(parts) + "\n"


def about_costs() -> str:
    """What times and memory are of."""
    return (
        "Seconds: the median of a picture from reading to writing, without loading. Memory: the peak, weights "
        "included, beyond what the process held before."
    )


def comparison_csv(comparison: Comparison) -> str:
    """One row for each picture and entry; an empty cell is a missing figure."""
    names = [metric.name for metric in comparison.metrics if not metric.of_set]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["picture", "method", "width", "height", "seconds", *names])
    for picture, size in comparison.pictures.items():
        for entry in comparison.entries:
            if entry.evaluation is None:
                continue
            scores = entry.scores(picture)
            cells = [entry.seconds.get(picture), *(scores.get(name) for name in names)]
            row = ["" if value is None else f"{value:.6f}" for value in cells]
            writer.writerow([printable(picture), printable(entry.name), *size, *row])
    return buffer.getvalue()
