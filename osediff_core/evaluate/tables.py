"""An evaluation as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..errors import amount
from ..printable import printable
from .bootstrap import Mean
from .evaluation import Case, Evaluation
from .measure import BICUBIC, DIFFERENCE, RESULT
from .metric import Metric


def markdown(evaluation: Evaluation, title: str) -> str:
    """Means, what was skipped, and every picture from worst to best."""
    parts = [f"# {printable(title)}", _summary_words(evaluation), summary_table(evaluation)]
    if evaluation.skipped:
        parts.append(
            "Skipped:\n\n" + "\n".join(f"- {printable(reason)}" for reason in evaluation.skipped.values())
        )
    if evaluation.failed:
        parts.append("Left out:\n\n" + "\n".join(f"- {error}" for error in evaluation.failed.values()))
    order = evaluation.order_by
    heading = "## Pictures" + (f", worst {order.title} first" if order else "")
    parts += [heading, _pictures_table(evaluation)]
    notes = [note for case in evaluation.cases for note in case.notes]
    if notes:
        parts.append("Notes:\n\n" + "\n".join(f"- {printable(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def summary_table(evaluation: Evaluation) -> str:
    """The means as a Markdown table: one column a metric, one row a method."""
    rows = [["", *(f"{m.title} {m.arrow}" for m in evaluation.metrics)]]
    for method, label in ((RESULT, "result"), (BICUBIC, "bicubic"), (DIFFERENCE, "result - bicubic")):
        means = evaluation.summary[method]
        if not means:
            continue
        rows.append(
            [label, *(mean_shown(m, means.get(m.name), method == DIFFERENCE) for m in evaluation.metrics)]
        )
        intervals = [interval_shown(m, means.get(m.name), method == DIFFERENCE) for m in evaluation.metrics]
        if any(intervals):
            rows.append(["95 % interval", *intervals])
    return table_of(rows)


def as_text(evaluation: Evaluation) -> str:
    """The means for a terminal, one line a metric."""
    width = max(len(metric.title) for metric in evaluation.metrics)
    lines = []
    for metric in evaluation.metrics:
        means = {method: found.get(metric.name) for method, found in evaluation.summary.items()}
        line = f"{metric.title:{width}} {metric.arrow} {mean_shown(metric, means[RESULT])}"
        line += f" {interval_shown(metric, means[RESULT])}".rstrip()
        if means[BICUBIC] is not None:
            line += f"   bicubic {mean_shown(metric, means[BICUBIC])}"
        if means[DIFFERENCE] is not None:
            line += f"   difference {mean_shown(metric, means[DIFFERENCE], True)}"
            line += f" {interval_shown(metric, means[DIFFERENCE], True)}".rstrip()
        lines.append(line)
    return "\n".join(lines)


def as_csv(evaluation: Evaluation) -> str:
    """One row a picture, in order of their names, with six decimals; an empty cell is a missing score."""
    names = [metric.name for metric in evaluation.metrics if not metric.of_set]
    with_bicubic = any(case.bicubic for case in evaluation.cases)
    header = ["name", "width", "height", *names, *(f"bicubic_{name}" for name in names if with_bicubic)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*header, "notes"])
    for case in evaluation.cases:
        scores = [case.result.get(name) for name in names]
        if with_bicubic:
            scores += [(case.bicubic or {}).get(name) for name in names]
        cells = ["" if value is None else f"{value:.6f}" for value in scores]
        writer.writerow([printable(case.name), *case.size, *cells, printable("; ".join(case.notes))])
    return buffer.getvalue()


def _summary_words(evaluation: Evaluation) -> str:
    count = len(evaluation.cases)
    words = f"{amount(count, 'picture')}."
    words += " Means; in brackets, the 95 % bootstrap interval over pictures."
    settings = "; ".join(f"{m.title}: {m.settings} ({m.library})" for m in evaluation.metrics)
    return f"{words} {settings}."


def _pictures_table(evaluation: Evaluation) -> str:
    metrics = [metric for metric in evaluation.metrics if not metric.of_set]
    rows = [["picture", *(f"{m.title} {m.arrow}" for m in metrics)]]
    rows += [
        [_escaped(case), *(m.shown(case.result.get(m.name)) for m in metrics)]
        for case in evaluation.worst_first()
    ]
    return table_of(rows)


def _escaped(case: Case) -> str:
    return printable(case.name).replace("|", "\\|")


def mean_shown(metric: Metric, mean: Mean | None, signed: bool = False) -> str:
    """The mean alone, with the metric's digits; a dash where there is none."""
    return "–" if mean is None else f"{mean.value:{'+' if signed else ''}.{metric.digits}f}"


def interval_shown(metric: Metric, mean: Mean | None, signed: bool = False) -> str:
    """[low, high], or nothing where there is no interval."""
    if mean is None or mean.low is None or mean.high is None:
        return ""
    sign = "+" if signed else ""
    return f"[{mean.low:{sign}.{metric.digits}f}, {mean.high:{sign}.{metric.digits}f}]"


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
