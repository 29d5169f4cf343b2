"""The curves of a run in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .logs import LogRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2430", "#8a93a3", "#e8ebf0"
OURS, OTHER, REFERENCE = "#2f6fde", "#d9642c", "#8a93a3"

# (title, its lines, a note below the title); what the log does not have is left out
Panel = tuple[str, tuple[str, ...], str]
TRAIN: tuple[Panel, ...] = (
    ("Loss", ("loss",), "weighted sum"),
    ("L2", ("l2",), "to the HQ picture"),
    ("Embeddings", ("features",), "squared distance to the teacher's"),
    ("Logits", ("logits",), "cross-entropy against the teacher's"),
    ("Perceptual", ("perceptual",), "to the HQ picture"),
    ("Distillation", ("regulariser",), "mean squared direction; need not fall"),
    ("Adversarial", ("adversarial",), "of the generator"),
    ("Regulariser's own loss", ("diffusion",), "of the noise it predicts"),
    ("Gradient norms", ("grad_norm", "regulariser_grad_norm"), "before clipping"),
    ("Learning rate", ("learning_rate",), ""),
)
VALIDATION: tuple[Panel, ...] = (
    ("distance", ("distance", "bicubic_distance"), "lower is better"),
    ("PSNR-Y", ("psnr_y", "bicubic_psnr_y"), "dB, higher is better"),
    ("SSIM-Y", ("ssim_y", "bicubic_ssim_y"), "higher is better"),
    ("tags", ("f1", "precision", "recall"), "the teacher's are the right ones"),
)
_LABELS = {"grad_norm": "generator", "regulariser_grad_norm": "regulariser"}
_NO_CURVE = {"distance_ratio", "skipped", "enlarged"}
_COLUMNS, _WIDTH = 3, 12.3  # inches
_WIDE_SPAN = 30  # largest : smallest value from which an axis is logarithmic
_LOGARITHMIC = {"grad_norm", "diffusion", "regulariser", "loss", "l2"}


def series(rows: Sequence[LogRow], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the finite values of that name."""
    found = [
        (row["step"], row["values"][name]) for row in rows if row["kind"] == kind and name in row["values"]
    ]
    steps, values = np.array(found, float).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def smoothed(values: np.ndarray) -> np.ndarray:
    """Moving average over a fifteenth of the curve, narrower at its ends."""
    window = np.ones(2 * (len(values) // 30) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def draw_curves(rows: Sequence[LogRow], dpi: int = 110) -> bytes:
    """A PNG of all curves that `rows` hold: validation beside the enlarged LQ, then training, raw and smoothed.

    Raises ImportError without matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [("validation", *panel) for panel in _known(rows, "validation", VALIDATION)]
    panels += [("train", *panel) for panel in _known(rows, "train", TRAIN)]
    lines = max(1, -(-len(panels) // _COLUMNS))
    figure = Figure(figsize=(_WIDTH, 2.9 * lines), facecolor="white")
    _set_margins(figure, lines)
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, _COLUMNS, squeeze=False).flatten()
    for axes, (kind, title, names, note) in zip(grid, panels, strict=False):
        _style(axes, title if kind == "train" else f"Validation: {title}", note)
        _draw(axes, rows, kind, names)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _set_margins(figure: Figure, lines: int) -> None:
    """Fixed ones: a layout engine draws everything two times more."""
    (left, right), (top, bottom), (across, down) = (0.65, 0.25), (0.6, 0.4), (0.65, 0.95)  # inches
    width, height = figure.get_size_inches()
    wide = (width - left - right - (_COLUMNS - 1) * across) / _COLUMNS
    high = (height - top - bottom - (lines - 1) * down) / lines
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, across / wide, down / high
    )


def _known(rows: Sequence[LogRow], kind: str, panels: tuple[Panel, ...]) -> list[Panel]:
    """The panels that have values, then one for every name that no panel knows."""
    there = {name for row in rows if row["kind"] == kind for name in row["values"]}
    known = {name for _, names, _ in panels for name in names} | _NO_CURVE
    chosen = [(title, names, note) for title, names, note in panels if there & set(names)]
    return chosen + [(name.replace("_", " "), (name,), "") for name in sorted(there - known)]


def _style(axes: Axes, title: str, note: str) -> None:
    axes.set_title(
        title[:1].upper() + title[1:],
        loc="left",
        fontsize=11,
        color=INK,
        fontweight="bold",
        pad=18 if note else 8,
    )
    if note:
        axes.text(0, 1.03, note, transform=axes.transAxes, fontsize=8.5, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0, which="both")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.ticklabel_format(style="sci", scilimits=(-3, 4), axis="y")


def _draw(axes: Axes, rows: Sequence[LogRow], kind: str, names: tuple[str, ...]) -> None:
    everything = []
    for name, colour in zip(names, (OURS, OTHER), strict=False):
        steps, values = series(rows, kind, name)
        if not len(steps):
            continue
        everything.append(values)
        if name.startswith("bicubic_"):
            axes.axhline(
                values[-1], color=REFERENCE, linewidth=1.2, linestyle=(0, (4, 3)), label="enlarged LQ"
            )
        elif kind == "validation":
            axes.plot(
                steps, values, color=colour, linewidth=1.8, marker="o", markersize=3.5, label="restored"
            )
        elif name == "learning_rate":
            axes.plot(steps, values, color=colour, linewidth=1.8)
        else:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.28)
            axes.plot(steps, smoothed(values), color=colour, linewidth=1.8, label=_LABELS.get(name, name))
    values = np.concatenate(everything) if everything else np.zeros(0)
    if _LOGARITHMIC & set(names) and len(values) and 0 < values.min() < values.max() / _WIDE_SPAN:
        axes.set_yscale("log")
    if len(names) > 1 and len(everything) > 1:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
