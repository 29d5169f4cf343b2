"""A study in one picture: how far each row is from the reference."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from osediff_core.evaluate.metrics import METRICS

from ..run.curves import FAINT, GRID, INK, OURS
from .figures import SET_TITLES
from .plan import REFERENCE_ROW, Study
from .results import Difference, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_study(study: Study, results: Results, dpi: int = 110) -> bytes | None:
    """A PNG: one panel a metric and set, one line a row; None where there is nothing to compare.

    Raises ImportError without matplotlib.
    """
    rows = [row for row in study.rows if not row.is_reference]
    panels = [(name, metric) for name in results.sets for metric in results.metrics]
    found = {
        (*panel, row): results.difference(row, REFERENCE_ROW, panel[1], panel[0])
        for panel in panels
        for row in rows
    }
    if not any(found.values()):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(results.metrics)
    lines = len(panels) // columns
    size = 4.6 * columns, lines * (1.1 + 0.34 * len(rows))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, (name, metric) in zip(grid, panels, strict=True):
        _style(axes, name, metric)
        for place, row in enumerate(rows):
            difference = found[name, metric, row]
            if difference is not None:
                _draw(axes, place, difference.times(1 if METRICS[metric].higher else -1))
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _style(axes: Axes, name: str, metric: str) -> None:
    title = f"{METRICS[metric].title}, {SET_TITLES[name]}"
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    unit = METRICS[metric].unit
    axes.set_xlabel(f"gain over the reference{f' in {unit}' if unit else ''} →", fontsize=8.5, color=FAINT)
    axes.locator_params(axis="x", nbins=6)
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
