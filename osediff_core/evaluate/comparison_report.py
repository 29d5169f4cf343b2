"""One page that shows a comparison: the table, pictures under a slider between any two methods, and all scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..images import read_image
from .comparison import Comparison, about_costs, rows_of
from .folders import PicturePair
from .metrics import ORDER
from .report import (
    LQ,
    TRUTH,
    figure,
    in_squares,
    page,
    remarks,
    score_table,
    settings_of,
    sortable_table,
    text_of,
    titles_of,
)


def render_comparison(
    comparison: Comparison,
    pairs: Mapping[str, PicturePair],
    title: str,
    about: Sequence[str] = (),
    left_out: Sequence[str] = (),
    shown: int = 12,
) -> str:
    """The page. pairs: of each compared picture its LQ and ground truth. left_out: sentences about what is missing."""
    compared = [entry for entry in comparison.entries if entry.evaluation is not None]
    errors = [f"{entry.name}: {entry.error}" for entry in comparison.entries if entry.error]
    return page(
        title,
        about,
        cards="",
        remarks=f'<div class="panel">{_means(comparison)}</div>'
        + remarks(
            (f"Not measured: {titles_of(comparison.skipped)}", list(comparison.skipped.values())),
            (f"Left out: {len(errors) + len(left_out)}", [*errors, *left_out]),
        ),
        cases='<h2>Pictures</h2><div class="cases">'
        + "".join(_case(comparison, pairs[name], name) for name in list(comparison.pictures)[:shown])
        + "</div>",
        table=_all(comparison) if compared else "",
        footer=f"{about_costs()} {settings_of(comparison.metrics)}.",
    )


def _means(comparison: Comparison) -> str:
    head, *rows = rows_of(comparison)
    values = [
        [entry.median_seconds, entry.loading, entry.memory]
        + [None if (mean := entry.mean(metric)) is None else mean.value for metric in comparison.metrics]
        for entry in comparison.entries
    ]
    return sortable_table(
        head,
        [
            (name, list(zip(own, cells, strict=True)))
            for (name, *cells), own in zip(rows, values, strict=True)
        ],
    )


def _case(comparison: Comparison, pair: PicturePair, name: str) -> str:
    size = comparison.pictures[name]
    compared = [entry for entry in comparison.entries if entry.evaluation is not None]
    pictures: dict[str, np.ndarray] = {}
    if pair.lq is not None:
        pictures[LQ] = in_squares(read_image(pair.lq), size)
    pictures |= {entry.name: _pixels(entry.results[name]) for entry in compared}
    if pair.truth is not None:
        pictures[TRUTH] = _pixels(pair.truth)
    metrics = [metric for metric in comparison.metrics if not metric.of_set]
    order = next((m for n in ORDER for m in metrics if m.name == n), None)
    hint = (
        f"best {order.title}: {text_of(_best(comparison, name, order.name, order.higher))}"
        if order
        else "compared"
    )
    names = [entry.name for entry in compared]
    start = (names[0], names[1] if len(names) > 1 else names[0])
    table = score_table(metrics, {entry.name: entry.scores(name) for entry in compared})
    return figure(name, size, hint, pictures, start, table)


def _best(comparison: Comparison, name: str, metric: str, higher: bool) -> str:
    scores = {e.name: value for e in comparison.entries if (value := e.scores(name).get(metric)) is not None}
    choose = max if higher else min
    return choose(scores, key=lambda entry: scores[entry]) if scores else "–"


def _pixels(path: Path) -> np.ndarray:
    return read_image(path).rgb8()


def _all(comparison: Comparison) -> str:
    metrics = [metric for metric in comparison.metrics if not metric.of_set]
    rows = []
    for name in comparison.pictures:
        for entry in comparison.entries:
            if entry.evaluation is None:
                continue
            seconds, scores = entry.seconds.get(name), entry.scores(name)
            cells = [(seconds, "–" if seconds is None else f"{seconds:.3f}")]
            cells += [(scores.get(m.name), m.shown(scores.get(m.name))) for m in metrics]
            rows.append((f"{name} · {entry.name}", cells))
    return sortable_table(["picture · method", "seconds", *(f"{m.title} {m.arrow}" for m in metrics)], rows)
