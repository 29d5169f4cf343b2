"""The page of all studies: claims, tables, plots.

    python -m training.ablations.report OUT [--page docs/ablations.md]

Of what is measured in OUT already; plots go to images/ beside the page.
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
from osediff_core.evaluate.metrics import METRICS, Metric
from osediff_core.evaluate.tables import table_of

from ..run.errors import TrainingError
from .figures import SET_TITLES
from .plan import REFERENCE_ROW, STUDIES, TRAININGS, Row, Study
from .plots import draw_study
from .results import Difference, Results
from .verdicts import CLAIMS, MARGIN, UNCLEAR, Finding, judge

log = logging.getLogger("training.ablations")

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"
_TEMPLATE = Path(__file__).with_name("page.md")
# for ablation.yaml's 300 steps on 44 pictures: a run takes 4 to 7 minutes beside another one, 5 on average
_ESTIMATE = "100 minutes"


def write_report(out: Path, page: Path) -> None:
    """Write `page`, and its plots to images/ beside it, from the figures in `out`.

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
    """Its plot, relative to the page."""
    return f"images/ablations_{study}.png"


def page_of(results: Results, plotted: set[str]) -> str:
    """Markdown. plotted: names of studies that have a plot."""
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        trainings=len(TRAININGS),
        estimate=_ESTIMATE,
        facts=_facts(results),
        claims=_claims([judge(claim, results) for claim in CLAIMS]),
        margins=", ".join(f"{margin:g}{_unit(METRICS[name])}" for name, margin in MARGIN.items()),
        steps=_steps(results),
        studies="\n\n".join(_study(study, results, name in plotted) for name, study in STUDIES.items()),
    )


def _steps(results: Results) -> str:
    found = sorted({figures["training"]["steps"] for figures in results.found.values()})
    return " or ".join(map(str, found)) if found else "A few hundred"


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
        f"This page is of {len(runs)} runs of {_steps(results)} steps ({_seeds(results.seeds)}), each on one thread "
        f"{trained:.1f} minutes of training and {measured:.1f} of measuring, on {sets} of at most {sizes} px."
    ]
    lines += results.skipped.values()
    left = {name: [s for s in results.seeds if (name, s) not in results.found] for name in TRAININGS}
    missing = [f"{name} ({_seeds(seeds)})" for name, seeds in left.items() if seeds]
    if missing:
        why = "it failed, was not run, or is of other pictures or steps than the reference"
        lines.append(f"Not there, as {why}: {', '.join(missing)}.")
    return _wrapped(" ".join(lines))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _claims(findings: Sequence[Finding]) -> str:
    rows = [("claim", "gain", "each seed", "verdict")]
    for finding in findings:
        claim = finding.claim
        text = claim.text if claim.of_paper else f"*Not in the paper:* {claim.text}"
        gains = [
            f"{METRICS[name].title} {_shown(METRICS[name], gain)}" for name, gain in finding.gains.items()
        ]
        signs = [_signs(gain) for gain in finding.gains.values()]
        rows.append((text, "<br>".join(gains) or "–", "<br>".join(signs) or "–", _verdict(finding)))
    return table_of(rows)


def _verdict(finding: Finding) -> str:
    """With the reason, or with what some metrics say that the others do not."""
    remarks = [finding.why] if finding.why else []
    if finding.verdict == UNCLEAR:
        remarks += [
            f"{METRICS[name].title} {said}" for name, said in finding.by_metric.items() if said != UNCLEAR
        ]
    return f"**{finding.verdict}**" + (f": {', '.join(remarks)}" if remarks else "")


def _signs(gain: Difference) -> str:
    """One sign a seed."""
    return "".join("+" if value > 0 else "−" if value < 0 else "0" for value in gain.by_seed)


def _study(study: Study, results: Results, plotted: bool) -> str:
    parts = [f"## {study.title}", _wrapped(study.about)]
    for name in results.sets:
        if any(results.of(row, metric, name) for row in study.rows for metric in results.metrics):
            parts.append(_set_table(study, results, name))
    if plotted:
        parts.append(f"![{study.title}: gains over the reference]({image_of(study.name)})")
    return "\n\n".join(parts)


def _set_table(study: Study, results: Results, name: str) -> str:
    metrics = [METRICS[metric] for metric in results.metrics]
    head = [f"{SET_TITLES[name]} ({results.sets[name]})"]
    for metric in metrics:
        head += [f"{metric.title} {metric.arrow}", "difference"]
    rows = [
        head,
        ["enlarged input", *(cell for m in metrics for cell in (_mean(results, None, m, name), ""))],
    ]
    for row in study.rows:
        cells = [f"**{row.label}** (reference)" if row.is_reference else row.label]
        for metric in metrics:
            difference = None
            if not row.is_reference:
                difference = results.difference(row, REFERENCE_ROW, metric.name, name)
            cells += [_mean(results, row, metric, name), _shown(metric, difference) if difference else ""]
        rows.append(cells)
    return table_of(rows)


def _mean(results: Results, row: Row | None, metric: Metric, name: str) -> str:
    """Over pictures and seeds, with the spread over seeds; the input has none."""
    figures = results.of(row, metric.name, name)
    if figures is None:
        return "–"
    spread = None if row is None else figures.spread
    return metric.shown(figures.mean) + ("" if spread is None else f" ± {metric.shown(spread)}")


def _shown(metric: Metric, difference: Difference) -> str:
    mean, low, high = (
        f"{value:+.{metric.digits}f}" for value in (difference.mean, difference.low, difference.high)
    )
    return f"{mean} [{low}, {high}]"


def _unit(metric: Metric) -> str:
    return f" {metric.unit} of {metric.title}" if metric.unit else f" of {metric.title}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablations.report", description=__doc__.splitlines()[0]
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
