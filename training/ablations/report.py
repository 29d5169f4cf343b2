"""The page of all studies: questions, answers, figures, tables.

    python -m training.ablations.report OUT [--page docs/ablations.md]

Of what is measured in OUT already; figures go to images/ beside the page.
"""

from __future__ import annotations

import argparse
import logging
import string
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from osediff_core.atomic import write_bytes_atomically
from osediff_core.cli.entry import run_main
from osediff_core.errors import OptionError, explained
from osediff_core.evaluate.metric import Metric
from osediff_core.evaluate.tables import table_of

from ..run.errors import TrainingError
from .figures import METRICS, SET_TITLES, SHARPNESS
from .plan import STUDIES, TRAININGS, Row, Study
from .plots import draw_study
from .results import IDENTITY, Difference, Results, by_seed, spread
from .verdicts import AGREES, CLAIMS, DISAGREES, MARGIN, UNCLEAR, UNMEASURED, Finding, judge

log = logging.getLogger("training.ablations")

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"
_TEMPLATE = Path(__file__).with_name("page.md")
_ESTIMATE = "under three hours"


def write_report(out: Path, page: Path) -> None:
    """Write `page`, and its figures to images/ beside it, from what was measured in `out`.

    Raises TrainingError where they cannot be written, OptionError without matplotlib.
    """
    results = Results.read(out)
    try:
        plots = {name: draw_study(study, results) for name, study in STUDIES.items()}
    except ImportError as error:
        raise OptionError("The report needs matplotlib; run pip install 'osediff[train]'.") from error
    text = page_of(results, {name for name, plot in plots.items() if plot})
    with explained(TrainingError, f"The report {page} cannot be written", "choose another --page"):
        (page.parent / "images").mkdir(parents=True, exist_ok=True)
        for name, plot in plots.items():
            if plot:
                write_bytes_atomically(page.parent / image_of(name), plot)
        write_bytes_atomically(page, text.encode())


def image_of(study: str) -> str:
    """Its figure, relative to the page."""
    return f"images/ablations_{study}.png"


def page_of(results: Results, plotted: set[str]) -> str:
    """Markdown. plotted: names of studies that have a figure."""
    findings = [judge(claim, results) for claim in CLAIMS]
    studies = [
        _study(study, [f for f in findings if f.claim.study == name], results, name in plotted)
        for name, study in STUDIES.items()
    ]
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        trainings=len(TRAININGS),
        estimate=_ESTIMATE,
        summary=_summary(findings),
        claims=_claims(findings),
        facts=_facts(results),
        margins=", ".join(f"{margin:g} {_named(METRICS[name])}" for name, margin in MARGIN.items()),
        steps=_steps(results),
        studies="\n\n".join(studies),
    )


def _named(metric: Metric) -> str:
    return f"{metric.unit} of {metric.title}" if metric.unit else f"of {metric.title}"


def _summary(findings: Sequence[Finding]) -> str:
    told = [f for f in findings if f.verdict in (AGREES, DISAGREES)]
    held = sum(f.verdict == AGREES for f in told)
    if not told:
        return "**No claim could be told yet.**"
    return _wrapped(
        f"**{len(told)} of {len(findings)} claims could be told here**: {held} hold and {len(told) - held} do not; "
        "for the others the differences are within what seeds and images vary by."
    )


def _claims(findings: Sequence[Finding]) -> str:
    rows = [("claim", "here", "gain")]
    for finding in findings:
        claim = finding.claim
        text = f"{claim.text} *(paper)*" if claim.of_paper else claim.text
        rows.append((text, _answer(finding), "; ".join(_gains(finding)) or "–"))
    return table_of(rows)


def _answer(finding: Finding) -> str:
    """With the reason, or with what some metrics say that the others do not."""
    remarks = [finding.why] if finding.why else []
    if finding.verdict == UNCLEAR:
        remarks += [
            f"{METRICS[name].title}: {said}" for name, said in finding.by_metric.items() if said != UNCLEAR
        ]
    return f"**{finding.verdict}**" + (f" ({', '.join(remarks)})" if remarks else "")


def _gains(finding: Finding) -> list[str]:
    return [f"{METRICS[name].title} {_shown(METRICS[name], gain)}" for name, gain in finding.gains.items()]


def _steps(results: Results) -> str:
    found = sorted({figures["training"]["steps"] for figures in results.found.values()})
    return " or ".join(map(str, found)) if found else "Some hundred"


def _facts(results: Results) -> str:
    if not results.found:
        return "**There are no figures on this page yet:** the command has not been run for it."
    runs = list(results.found.values())
    trained, measured = (
        sum(seconds) / len(runs) / 60
        for seconds in ([r["training"]["seconds"] for r in runs], [r["seconds"] for r in runs])
    )
    sets = " and ".join(f"{count} {SET_TITLES[name]}" for name, count in results.sets.items())
    sizes = " or ".join(str(size) for size in sorted({r["evaluation"]["size"] for r in runs}))
    lines = [
        f"Of {len(runs)} runs of {_steps(results)} steps ({_seeds(results.seeds)}), each on one thread {trained:.1f} "
        f"minutes of training and {measured:.1f} of measuring, on {sets} of at most {sizes} px."
    ]
    lines += results.skipped.values()
    left = {name: [s for s in results.seeds if (name, s) not in results.found] for name in TRAININGS}
    missing = [f"{name} ({_seeds(seeds)})" for name, seeds in left.items() if seeds]
    if missing:
        why = "it failed, was not run, or is of other images or steps than the reference"
        lines.append(f"Not there, as {why}: {', '.join(missing)}.")
    return _wrapped(" ".join(lines))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _study(study: Study, findings: Sequence[Finding], results: Results, plotted: bool) -> str:
    parts = [f"## {study.question}", "\n".join(_line(finding) for finding in findings)]
    if plotted:
        parts.append(
            f"![{study.title}: gains over {study.reference.label}]({image_of(study.name)})\n\n"
            f"*Against {study.reference.label}; right is better. Lines: 95 % intervals; small dots: seeds.*"
        )
    parts.append(_wrapped(study.about))
    tables = [_table(study, results, None)] if results.sets else []
    tables += [_table(study, results, name) for name in results.sets] if len(results.sets) > 1 else []
    if tables:
        parts.append("<details><summary>Figures</summary>\n\n" + "\n\n".join(tables) + "\n\n</details>")
    return "\n\n".join(parts)


def _line(finding: Finding) -> str:
    """A claim with its answer, in a sentence."""
    gains = ", ".join(_gains(finding))
    if finding.verdict == UNMEASURED:
        return f"- {finding.claim.text} **Not measured**{f': {finding.why}' if finding.why else ''}."
    said = {AGREES: "Yes", DISAGREES: "No"}.get(finding.verdict, "Cannot tell")
    seeds = "; ".join(f"{METRICS[name].title} {_signs(gain)}" for name, gain in finding.gains.items())
    return f"- {finding.claim.text} **{said}**: {gains} (seeds: {seeds})."


def _signs(gain: Difference) -> str:
    """One sign a seed."""
    return "".join("+" if value > 0 else "−" if value < 0 else "0" for value in gain.by_seed)


def _table(study: Study, results: Results, chosen: str | None) -> str:
    metrics = [METRICS[name] for name in results.metrics]
    count = sum(results.sets.values()) if chosen is None else results.sets[chosen]
    head = [f"{'all' if chosen is None else SET_TITLES[chosen]} ({count})"]
    for metric in metrics:
        head += [f"{metric.title} {'' if metric.name == SHARPNESS else metric.arrow}".strip(), "difference"]
    rows = [
        head,
        ["enlarged input", *(cell for m in metrics for cell in (_mean(results, IDENTITY, m, chosen), ""))],
    ]
    for row in study.rows:
        is_reference = row.place == study.reference.place
        cells = [f"**{row.label}** (reference)" if is_reference else row.label]
        for metric in metrics:
            difference = (
                None if is_reference else results.difference(row, study.reference, metric.name, chosen)
            )
            cells += [_mean(results, row, metric, chosen), _shown(metric, difference) if difference else ""]
        rows.append(cells)
    return table_of(rows)


def _mean(results: Results, row: Row, metric: Metric, chosen: str | None) -> str:
    """Over images and seeds, with the spread over seeds; the input has none."""
    figures = results.of(row, metric.name, chosen)
    if figures is None:
        return "–"
    found = None if row is IDENTITY else spread(figures)
    mean = metric.shown(float(by_seed(figures).mean()))
    return mean + ("" if found is None else f" ± {metric.shown(found)}")


def _shown(metric: Metric, difference: Difference) -> str:
    mean, low, high = (
        f"{value:+.{metric.digits}f}" for value in (difference.mean, difference.low, difference.high)
    )
    return f"{mean} [{low}, {high}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablations.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("out", type=Path, help="the folder of the runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)

    def work() -> None:
        write_report(args.out, args.page)
        log.info("%s", args.page)

    return run_main(work, log)


if __name__ == "__main__":
    sys.exit(main())
