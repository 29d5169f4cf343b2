"""A study in one figure: how far each row is from the reference."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..run.curves import FAINT, GRID, INK, OURS
from .figures import METRICS
from .plan import Study
from .results import Difference, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_study(study: Study, results: Results, dpi: int = 110) -> bytes | None:
    """A PNG: one panel a metric, over all sets, one line a row; None where there is nothing to compare.

    Raises ImportError without matplotlib.
    """
    rows = [row for row in study.rows if row.place != study.reference.place]
    found = {
        (metric, row): results.difference(row, study.reference, metric)
        for metric in results.metrics
        for row in rows
    }
    if not any(found.values()):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(results.metrics)
    figure = Figure(figsize=(1.6 + 2.7 * columns, 1.2 + 0.36 * len(rows)), facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, columns, squeeze=False, sharey=True).flatten()
    for axes, metric in zip(panels, results.metrics, strict=True):
        _style(axes, metric)
        for place, row in enumerate(rows):
            difference = found[metric, row]
            if difference is not None:
                _draw(axes, place, difference.times(1 if METRICS[metric].higher else -1))
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.15)  # labels are long
    return buffer.getvalue()


def _style(axes: Axes, metric: str) -> None:
    described = METRICS[metric]
    axes.set_title(described.title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    unit = f" in {described.unit}" if described.unit else ""
    axes.set_xlabel(f"{'gain' if metric != 'sharpness' else 'more'}{unit} →", fontsize=8.5, color=FAINT)
    axes.locator_params(axis="x", nbins=4)
    axes.axvline(0, color=FAINT, linewidth=1.2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw(axes: Axes, place: int, gain: Difference) -> None:
    """The seeds' means as faint dots, the interval as a line, the mean on it."""
    axes.plot([gain.low, gain.high], [place, place], color=OURS, linewidth=2, solid_capstyle="round")
    axes.plot(gain.by_seed, [place + 0.22] * len(gain.by_seed), "o", color=FAINT, markersize=3)
    axes.plot([gain.mean], [place], "o", color=OURS, markersize=6)
