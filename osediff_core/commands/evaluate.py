"""`osediff evaluate`: how good results are, in figures and as a page to look at."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_bytes_atomically
from ..errors import ImageError
from .jobs import Job, check_outputs
from .outcome import DONE, FAILED, Outcome

if TYPE_CHECKING:
    from ..evaluate.evaluation import Evaluation
    from ..evaluate.folders import Pairing, PicturePair

logger = logging.getLogger(__name__)

FILES = ("evaluation.json", "evaluation.csv", "evaluation.md", "report.html")


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    from ..evaluate import evaluate, pair_up, parse_metrics
    from ..evaluate.tables import as_text
    from ..precision import parse_device

    metrics = parse_metrics(args.metrics)
    device = parse_device(args.device)
    results, truth, lq = (None if p is None else Path(p) for p in (args.results, args.truth, args.lq))
    output = None if args.output is None else Path(args.output)
    if output is not None:
        check_outputs([Job(results, output / name) for name in FILES])
    pairing = pair_up(results, truth, lq)
    for sentence in pairing.unpaired:
        logger.warning("%s", sentence)
    found = evaluate(
        pairing.pairs,
        metrics,
        device,
        allow_download=args.allow_download,
        seed=args.seed,
        progress=_with_bar,
    )
    data = {
        "command": "evaluate",
        "results": args.results,
        "ground_truth": args.truth,
        "lq": args.lq,
        "unpaired": pairing.unpaired,
        **found.as_dict(),
    }
    lines = [as_text(found), _counts(found, pairing)]
    if output is not None:
        data["files"] = [str(output / name) for name in FILES]
        _write(output, found, data, args.title or results.resolve().name, args)
        lines.append(f"written to {output}: {', '.join(FILES)}")
    status = FAILED if found.failed or pairing.unpaired else DONE
    return Outcome(status, "\n".join(lines), data)


def _with_bar(pairs: Sequence[PicturePair]) -> Iterator[PicturePair]:
    from tqdm import tqdm

    # disable=None: no bar where stderr is a file or a pipe
    yield from tqdm(pairs, desc="evaluating", unit="picture", disable=None)


def _counts(found: Evaluation, pairing: Pairing) -> str:
    text = f"{len(found.cases)} measured, {len(found.failed)} failed"
    lines = [text, *(f"  {sentence}" for sentence in pairing.unpaired)]
    lines += [f"  failed: {error}" for error in found.failed.values()]
    lines += [f"  skipped: {reason}" for reason in found.skipped.values()]
    return "\n".join(lines)


def _write(
    folder: Path, found: Evaluation, data: dict[str, Any], title: str, args: argparse.Namespace
) -> None:
    from .. import __version__
    from ..evaluate.report import render_report
    from ..evaluate.tables import as_csv, markdown

    about = [f"{len(found.cases)} pictures in {args.results}"]
    about += [f"ground truth: {args.truth}"] if args.truth else []
    about += [f"LQ: {args.lq}"] if args.lq else []
    about += data["unpaired"]
    contents = (
        json.dumps({"version": __version__, **data}, indent=2) + "\n",
        as_csv(found),
        markdown(found, title),
        render_report(found, title, about, args.report_pictures),
    )
    for name, text in zip(FILES, contents, strict=True):
        path = folder / name
        try:
            write_bytes_atomically(path, text.encode())
        except OSError as error:
            raise ImageError(
                f"{path} cannot be written ({error.strerror or error}); free space or choose another -o."
            ) from error
