"""`osediff evaluate`: how good results are, in scores and as a page to look at."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_bytes_atomically
from ..batch.measuring import MeasureResult, MeasureSettings
from ..batch.record import Result
from ..errors import ImageError, OSEDiffError, amount, writing
from ..version import SCHEMA_VERSION, __version__
from .devices import devices_of
from .jobs import Job, check_outputs
from .many import add_many, check_many, do_all
from .naming import output_folder
from .options import add_device, without_effect
from .outcome import DONE, FAILED, Outcome
from .progress import Progress
from .report_options import add_metrics, add_report
from .results import Results
from .signals import ending

if TYPE_CHECKING:
    from ..evaluate.evaluation import Case, Evaluation, Fail
    from ..evaluate.folders import Pairing, PicturePair

logger = logging.getLogger(__name__)

HELP = "measure results against ground truth"
EXAMPLES = """osediff evaluate results/ HR/ --lq LR/ -o evaluation/
osediff evaluate restored.png original.png --metrics psnr,ssim
"""

FILES = ("evaluation.json", "evaluation.csv", "evaluation.md", "report.html")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("results", metavar="RESULTS", help="a folder of results, or one picture")
    add(
        "truth",
        metavar="GROUND_TRUTH",
        nargs="?",
        help="what they should be, under the same names; without it only no-reference metrics are computed",
    )
    add("--lq", metavar="LQ", help="what they were made from, under the same names: also measures bicubic")
    add("-o", "--output", metavar="OUT", help="folder for evaluation.json, .csv and .md and report.html")
    add_metrics(add)
    add_device(add, several=True)
    add("--allow-download", action="store_true", help="let pyiqa fetch the weights of metrics")
    add_report(add, 24, ", half of them the worst")
    add_many(parser, shard=False)


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    from ..evaluate import evaluate, pair_up, parse_metrics
    from ..evaluate.tables import as_text
    from ..runtime.device import parse_device

    metrics = parse_metrics(args.metrics)
    devices = devices_of(args.device)
    device = parse_device(devices[0])
    check_many(args, [])
    results = Path(args.results)
    truth, lq = (None if path is None else Path(path) for path in (args.truth, args.lq))
    output = None if args.output is None else Path(args.output)
    without_effect(args.title is not None and output is None, "--title", "no report is written without -o")
    if output is not None:
        output_folder(str(args.output))
        check_outputs([Job(results, output / name) for name in FILES])
    pairing = pair_up(results, truth, lq)
    for sentence in (*pairing.left_out, *pairing.unpaired):
        logger.warning("%s", sentence)
    found = evaluate(
        pairing.pairs,
        metrics,
        device,
        allow_download=args.allow_download,
        seed=args.seed,
        progress=lambda pairs: _telling(args, pairs),
        elsewhere=partial(_elsewhere, args, pairing) if args.engine == "ray" or len(devices) > 1 else None,
    )
    data = {
        "command": "evaluate",
        "results": args.results,
        "ground_truth": args.truth,
        "lq": args.lq,
        "unpaired": pairing.unpaired,
        "left_out": pairing.left_out,
        **found.as_dict(),
    }
    lines = [*as_text(found).splitlines(), *_counts(found, pairing)]
    status = FAILED if found.failed or pairing.unpaired else DONE
    if output is not None:
        data["files"] = [str(output / name) for name in FILES]
        written: list[str] = []
        try:
            for name, text in _contents(found, data, args.title or results.resolve().name, args):
                _write(output / name, text())
                written.append(name)
        except OSEDiffError as error:  # the scores are still shown
            logger.error("%s", error)
            data |= {"files": [str(output / name) for name in written], "error": str(error)}
            status = FAILED
        if written:
            lines.append(f"written to {output}: {', '.join(written)}")
    return Outcome(ending()[1] if found.interrupted else status, lines, data)


def _telling(args: argparse.Namespace, pairs: Sequence[PicturePair]) -> Iterator[PicturePair]:
    with Progress(args, pairs, "evaluating") as progress:
        for pair in progress:
            progress.begin(str(pair.result))
            yield pair


class _Scores(Results):
    """Takes records of pictures as cases of an evaluation."""

    def __init__(self, pairs: Mapping[str, PicturePair], take: Callable[[Case], None], fail: Fail) -> None:
        super().__init__(kept=False)
        self.pairs, self.take, self.fail = pairs, take, fail

    def add(self, found: Iterable[Result]) -> None:
        """Those of one picture."""
        from ..evaluate.evaluation import Case

        for one in found:
            pair = self.pairs[one.input]
            if one.error is not None:
                self.fail(pair.name, one.error, one.kind or "")
            elif isinstance(one, MeasureResult) and one.scores is not None and one.input_size is not None:
                width, height = one.input_size
                case = Case(pair.name, (width, height), pair, one.scores, one.bicubic, one.notes or [])
                self.take(case)


def _elsewhere(
    args: argparse.Namespace,
    pairing: Pairing,
    metrics: Sequence[str],
    take: Callable[[Case], None],
    fail: Fail,
) -> None:
    jobs = [
        Job(pair.result, pair.result, number, beside=(pair.truth, pair.lq))
        for number, pair in enumerate(pairing.pairs, 1)
    ]
    settings = MeasureSettings(tuple(metrics), args.truth is not None, args.device, args.allow_download)
    scores = _Scores({str(pair.result): pair for pair in pairing.pairs}, take, fail)
    do_all(args, settings, jobs, scores, "evaluating")


def _counts(found: Evaluation, pairing: Pairing) -> list[str]:
    text = f"{len(found.cases)} measured, {len(found.failed)} failed"
    if found.interrupted:
        left = len(pairing.pairs) - len(found.cases) - len(found.failed)
        text += f", {left} not done: {ending()[0]}"
    lines = [text, *(f"  {sentence}" for sentence in pairing.unpaired)]
    lines += [f"  failed: {error}" for error in found.failed.values()]
    return [*lines, *(f"  skipped: {reason}" for reason in found.skipped.values())]


def _contents(
    found: Evaluation, data: dict[str, Any], title: str, args: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], str]]]:
    """FILES with what makes each; the report, which reads pictures again, is last."""
    from ..evaluate.report import render_report
    from ..evaluate.tables import as_csv, markdown

    about = [f"{amount(len(found.cases), 'picture')} in {args.results}"]
    about += [f"interrupted after {amount(len(found.cases), 'picture')}"] if found.interrupted else []
    about += [f"ground truth: {args.truth}"] if args.truth else []
    about += [f"LQ: {args.lq}"] if args.lq else []
    about += data["unpaired"]
    makers = (
        lambda: (
            json.dumps({"version": __version__, "schema_version": SCHEMA_VERSION, **data}, indent=2) + "\n"
        ),
        lambda: as_csv(found),
        lambda: markdown(found, title),
        lambda: render_report(found, title, about, args.report_pictures),
    )
    return zip(FILES, makers, strict=True)


def _write(path: Path, text: str) -> None:
    with writing(ImageError, f"{path} cannot be written", "choose another -o"):
        write_bytes_atomically(path, text.encode())
