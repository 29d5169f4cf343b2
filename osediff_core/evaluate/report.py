"""One page that shows an evaluation: means, the worst and the best pictures under a slider, and all scores.

It is one file that needs no other and no network.
"""

from __future__ import annotations

import base64
import html
import io
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..images import Picture, read_image
from ..printable import printable
from .evaluation import Case, Evaluation, enlarged
from .measure import BICUBIC, DIFFERENCE, RESULT, Scores
from .metric import Metric
from .metrics import METRICS
from .tables import interval_shown, mean_shown

_TEMPLATE = Path(__file__).with_name("report.html")
_LARGEST = 768  # px: of larger pictures the centre is shown, at 1:1
LQ, TRUTH = "LQ", "ground truth"


def render_report(evaluation: Evaluation, title: str, about: Sequence[str] = (), shown: int = 24) -> str:
    """The page. about: lines under the title. shown: at most so many pictures have a slider, half of them the worst."""
    notes = [note for case in evaluation.cases for note in case.notes]
    return page(
        title,
        about,
        cards="".join(_card(evaluation, metric) for metric in evaluation.metrics),
        remarks=remarks(
            (f"Not measured: {titles_of(evaluation.skipped)}", list(evaluation.skipped.values())),
            (f"Left out: {len(evaluation.failed)}", list(evaluation.failed.values())),
            (f"Notes: {len(notes)}", notes),
        ),
        cases=_cases(evaluation, shown),
        table=_table(evaluation),
        footer=f"{settings_of(evaluation.metrics)}. Brackets: 95 % bootstrap interval over pictures.",
    )


def page(
    title: str, about: Sequence[str], *, cards: str, remarks: str, cases: str, table: str, footer: str
) -> str:
    """The page of HTML parts; title, about (its lines) and footer are text."""
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=text_of(title),
        summary="<br>".join(text_of(line) for line in about),
        cards=cards,
        remarks=remarks,
        cases=cases,
        table=table,
        footer=text_of(footer),
    )


def settings_of(metrics: Sequence[Metric]) -> str:
    """How each was computed."""
    return "; ".join(f"{m.title}: {m.settings}, by {m.library}" for m in metrics)


def titles_of(names: Iterable[str]) -> str:
    """Of metrics by their names."""
    return ", ".join(METRICS[name].title for name in names)


def text_of(value: str) -> str:
    """Text from outside as HTML, its control characters as escapes."""
    return html.escape(printable(value))


def _card(evaluation: Evaluation, metric: Metric) -> str:
    result, bicubic, difference = (
        evaluation.summary[method].get(metric.name) for method in (RESULT, BICUBIC, DIFFERENCE)
    )
    lines = [f"<h3>{metric.title} {metric.arrow}</h3>"]
    unit = f" <small>{metric.unit}</small>" if metric.unit else ""
    lines.append(f'<p class="mean">{mean_shown(metric, result)}{unit}</p>')
    without = "of all pictures together" if metric.of_set else "of one picture"
    lines.append(f"<p>{interval_shown(metric, result) or without}</p>")
    if bicubic is not None:
        lines.append(f"<p>bicubic {mean_shown(metric, bicubic)}</p>")
        if difference is not None and difference.low is not None and difference.high is not None:
            better = difference.low > 0 if metric.higher else difference.high < 0
            worse = difference.high < 0 if metric.higher else difference.low > 0
            verdict = ' class="better"' if better else ' class="worse"' if worse else ""
            shown = f"<span{verdict}>{mean_shown(metric, difference, True)}</span>"
            lines.append(f"<p>{shown} {interval_shown(metric, difference, True)}</p>")
    return f'<div class="card">{"".join(lines)}{_strip(evaluation, metric)}</div>'


def _strip(evaluation: Evaluation, metric: Metric) -> str:
    """Every picture as a tick, the enlarged LQ pictures below; more is to the right."""
    rows = [
        (name, y, [(case.name, scores.get(metric.name)) for case, scores in found if scores])
        for name, y, found in (
            (RESULT, 0, [(case, case.result) for case in evaluation.cases]),
            (BICUBIC, 18, [(case, case.bicubic) for case in evaluation.cases]),
        )
    ]
    values = [value for _, _, found in rows for _, value in found if value is not None]
    if len(values) < 2:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    ticks = (
        f'<rect class="tick {kind}" x="{198 * (value - low) / span:.1f}" y="{y}" width="2" height="16">'
        f"<title>{text_of(name)}, {kind}: {metric.shown(value)}</title></rect>"
        for kind, y, found in rows
        for name, value in found
        if value is not None
    )
    label = f"{metric.title} of each picture, {metric.shown(low)} to {metric.shown(low + span)}"
    head = f'<svg viewBox="0 0 200 34" preserveAspectRatio="none" role="img" aria-label="{label}">'
    return f"{head}{''.join(ticks)}</svg>"


def remarks(*found: tuple[str, Sequence[str]]) -> str:
    """HTML: headings that open, each with its lines; those without lines are left out."""
    return "".join(
        f'<details class="panel"><summary>{text_of(heading)}</summary><ul>'
        + "".join(f"<li>{text_of(line)}</li>" for line in lines)
        + "</ul></details>"
        for heading, lines in found
        if lines
    )


def _cases(evaluation: Evaluation, shown: int) -> str:
    ordered, metric = evaluation.worst_first(), evaluation.order_by
    by = f", by {metric.title}" if metric else ""
    if len(ordered) <= shown:
        sections = [(f"Worst to best{by}", ordered)]
    else:
        worst = ordered[: shown - shown // 2]
        best = ordered[len(ordered) - shown // 2 :][::-1]
        sections = [(f"The {len(worst)} worst{by}", worst), (f"The {len(best)} best{by}", best)]
    rank = {
        case.name: f"place {place} of {len(ordered)} from the worst{by}"
        for place, case in enumerate(ordered, 1)
    }
    return "".join(
        f'<h2>{heading}</h2><div class="cases">'
        + "".join(_case(evaluation, case, rank[case.name]) for case in cases)
        + "</div>"
        for heading, cases in sections
        if cases
    )


def _case(evaluation: Evaluation, case: Case, rank: str) -> str:
    methods = {RESULT: case.result} | ({BICUBIC: case.bicubic} if case.bicubic else {})
    metrics = [metric for metric in evaluation.metrics if not metric.of_set]
    pictures = _pictures(case)
    first = BICUBIC if BICUBIC in pictures else next(iter(pictures))
    return figure(case.name, case.size, rank, pictures, (first, RESULT), score_table(metrics, methods))


def figure(
    title: str,
    size: tuple[int, int],
    hint: str,
    pictures: Mapping[str, np.ndarray],
    start: tuple[str, str],
    table: str,
) -> str:
    """One picture under a slider between two of its kinds, with its scores beside it.

    pictures: kind -> uint8 (height, width, 3), all of `size` = (width, height), of which the centre is shown.
    start: the kinds on the left and on the right at first. table: HTML.
    """
    width, height = (min(side, _LARGEST) for side in size)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    name = text_of(title)
    part = "" if (width, height) == size else f"; shown is the centre, {width}x{height}"
    images = "".join(
        f'<img alt="{text_of(kind)}" data-kind="{text_of(kind)}"'
        f' src="{_embedded(pixels[top : top + height, left : left + width], kind)}"'
        f' class="{"left" if kind == start[0] else ""} {"right" if kind == start[1] else ""}">'
        for kind, pixels in pictures.items()
    )
    choices = "".join(
        f"<fieldset><legend>{side.capitalize()}</legend>"
        + "".join(
            f'<label><input type="radio" data-side="{side}" name="{side} {name}" value="{text_of(kind)}"'
            f"{' checked' if kind == first else ''}> {text_of(kind)}</label>"
            for kind in pictures
        )
        + "</fieldset>"
        for side, first in zip(("left", "right"), start, strict=True)
    )
    tags = (text_of(kind) for kind in start)
    return (
        f'<figure class="case"><h3>{name}</h3><p class="hint">{hint};'
        f" {size[0]}x{size[1]} pixels{part}</p>"
        f'<div class="row"><div class="view"><div class="stage" style="--w: {width}; --h: {height}">{images}'
        f'<span class="tag l" aria-hidden="true">{next(tags)}</span>'
        f'<span class="tag r" aria-hidden="true">{next(tags)}</span>'
        f'<input type="range" min="0" max="100" value="50" aria-label="Boundary in {name}"></div></div>'
        f'<div class="side">{choices}{table}</div></div></figure>'
    )


def score_table(metrics: Sequence[Metric], methods: Mapping[str, Scores]) -> str:
    """HTML: a row for each metric, a column for each method."""
    head = "".join(f"<th>{text_of(method)}</th>" for method in methods)
    rows = "".join(
        f"<tr><td>{m.title} {m.arrow}</td>"
        + "".join(f"<td>{m.shown(scores.get(m.name))}</td>" for scores in methods.values())
        + "</tr>"
        for m in metrics
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _pictures(case: Case) -> dict[str, np.ndarray]:
    """What can be compared, by kind, uint8 (height, width, 3) each."""
    pair = case.pair
    if pair is None:
        raise ValueError(f"{case.name} came from no files, so that a report has nothing to show.")
    found: dict[str, np.ndarray] = {}
    if case.bicubic is not None and pair.lq is not None:
        lq = read_image(pair.lq)
        found = {LQ: in_squares(lq, case.size), BICUBIC: enlarged(lq, case.size)}
    found[RESULT] = read_image(pair.result).rgb8()
    if pair.truth is not None:
        found[TRUTH] = read_image(pair.truth).rgb8()
    return found


def in_squares(lq: Picture, size: tuple[int, int]) -> np.ndarray:
    """Every pixel as a square, so that one sees what there was: uint8 (h, w, 3) at `size` = (w, h)."""
    return np.asarray(Image.fromarray(lq.rgb8()).resize(size, Image.Resampling.NEAREST))


def _embedded(pixels: np.ndarray, kind: str) -> str:
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == LQ else {"quality": 92}
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _table(evaluation: Evaluation) -> str:
    metrics = [metric for metric in evaluation.metrics if not metric.of_set]
    rows = [
        (case.name, [(case.result.get(m.name), m.shown(case.result.get(m.name))) for m in metrics])
        for case in evaluation.worst_first()
    ]
    return sortable_table(["picture", *(f"{m.title} {m.arrow}" for m in metrics)], rows)


def sortable_table(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[tuple[float | None, str]]]]
) -> str:
    """HTML with a button on each column. rows: a name, then (value to sort by, as it is shown)."""
    titles = "".join(f'<th scope="col"><button>{text_of(title)}</button></th>' for title in head)
    body = "".join(
        f"<tr><td>{text_of(name)}</td>"
        + "".join(f'<td data-value="{"" if value is None else value}">{shown}</td>' for value, shown in cells)
        + "</tr>"
        for name, cells in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
