"""`osediff compare`: several methods on the same pictures: time, memory and scores in one table and report."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_bytes_atomically
from ..batch.job import FileJob, Job
from ..batch.places import STREAM
from ..choices import DTYPES, TINY
from ..errors import ImageError, OptionError, OSEDiffError, amount, some_of, writing
from ..version import SCHEMA_VERSION, __version__
from .compare_work import measure, restore_all
from .contenders import BICUBIC, contenders
from .jobs import check_outputs, make_plan
from .options import add_device, add_inputs, check_files, positive
from .outcome import DONE, FAILED, Outcome
from .report_options import add_metrics, add_report
from .results import ends_early
from .signals import ending
from .upscale_options import size, tile

if TYPE_CHECKING:
    from ..evaluate.comparison import Comparison
    from ..evaluate.folders import PicturePair

logger = logging.getLogger(__name__)

HELP = "run several methods on the same pictures, and measure them"
EXAMPLES = """osediff compare LR/ -o compared/ --with osediff.pkl pisa_sr.pkl RealESRGAN_x4plus.pth --base SD21
osediff compare LR/ -o compared/ --truth HR/ --with tiny net_params_200.pkl,decoder=halfDecoder.ckpt SeeSR=seesr/
osediff compare a.png -o compared/ --base SD21 --with pisa_sr.pkl "less=pisa_sr.pkl,semantic=0.5"
"""

FILES = ("comparison.json", "comparison.csv", "comparison.md", "report.html")
_RESULTS = "results"  # folder of a method's pictures, in one of its name


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_inputs(parser)
    add = parser.add_argument
    add("-o", "--output", metavar="OUT", required=True, help="folder for results, tables and report.html")
    add(
        "--with",
        dest="methods",
        metavar="METHOD",
        nargs="+",
        action="extend",
        required=True,
        help="weights of a one-step method or a GAN upscaler, tiny, or a folder of results of any other system; as "
        "[NAME=]FILE[,OPTION=VALUE,...] with options of osediff upscale for it alone",
    )
    add("--truth", metavar="HR", help="what the pictures should become, under the same names")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--scale", type=positive, default=4.0, metavar="X", help="output / input size (default: 4)"
    )
    target.add_argument("--size", type=size, metavar="WxH", help="output size in pixels instead of --scale")
    add = parser.add_argument_group("of all methods that have it").add_argument
    add("--base", default=TINY, metavar="BASE", help="as of osediff upscale (default: tiny)")
    add("--prompt", type=str, default="", metavar="TEXT", help="for methods that read words")
    add("--dape", metavar="FILE", help="a tagger, for methods that read words")
    add("--ram", metavar="FILE", help="RAM's file, as of osediff upscale")
    add("--tile", type=tile, default=96, metavar="N", help="as of osediff upscale (default: 96)")
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="as of osediff upscale (default: auto)",
    )
    add_device(add)
    add(
        "--allow-download", action="store_true", help="let a hub id as base, and metrics' weights, be fetched"
    )
    add = parser.add_argument_group("measuring").add_argument
    add_metrics(add)
    add_report(add, 12)


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    from ..evaluate.comparison import Comparison, Entry, comparison_text
    from ..evaluate.metrics import parse_metrics
    from ..runtime.device import parse_device

    metrics = parse_metrics(args.metrics)
    device = parse_device(args.device)
    check_files(args.base, args.dape, args.ram)
    output = Path(args.output)
    common = {
        name: getattr(args, name)
        for name in (
            "scale",
            "size",
            "base",
            "prompt",
            "dape",
            "ram",
            "tile",
            "dtype",
            "device",
            "allow_download",
        )
    }
    named = contenders(args.methods, common, [Path(one) for one in args.inputs if os.path.isdir(one)])
    plans = {one.name: _jobs(args, output / one.name / _RESULTS) for one in named}
    lq, problems = _lq(args, output)
    pairs = _pairs(args, lq, problems)
    check_outputs([Job(STREAM, output / name) for name in FILES])
    comparison = Comparison([Entry(one.name, one.kind, one.title, one.source) for one in named])

    work = [(one, entry, plans[one.name]) for one, entry in zip(named, comparison.entries, strict=True)]
    interrupted = ends_early(lambda: restore_all(args, work, device))
    problems += [f"{entry.name}: {entry.error}" for entry in comparison.entries if entry.error]
    data: dict[str, Any] = {
        "command": "compare",
        "inputs": args.inputs,
        "ground_truth": args.truth,
        "interrupted": interrupted,
    }
    lines: list[str] = []
    if not interrupted:
        interrupted = ends_early(lambda: measure(args, comparison, pairs, metrics, device, problems))
    data |= {"interrupted": interrupted, "left_out": problems, **comparison.as_dict()}
    lines += comparison_text(comparison).splitlines()
    summary = [f"{amount(len(comparison.pictures), 'picture')} compared"]
    summary += [f"{ending()[0]}; the same command goes on with what is left"] if interrupted else []
    summary += [f"  left out: {problem}" for problem in problems]
    summary += [f"  skipped: {reason}" for reason in comparison.skipped.values()]
    status = ending()[1] if interrupted else FAILED if problems else DONE
    data["files"] = [str(output / name) for name in FILES]
    try:
        _write_all(args, comparison, pairs, problems, data, output)
        summary.append(f"written to {output}: {', '.join(FILES)}")
    except OSEDiffError as error:  # the table is still shown
        logger.error("%s", error)
        data |= {"files": [], "error": str(error)}
        status = status or FAILED
    return Outcome(status, lines, data, summary)


def _jobs(args: argparse.Namespace, folder: Path) -> list[FileJob]:
    """Every picture with its result there, a PNG."""
    plan = make_plan(args.inputs, f"{folder}/", recursive=args.recursive, file_format="png")
    return [FileJob.of(job) for job in plan.jobs]


def _lq(args: argparse.Namespace, output: Path) -> tuple[dict[str, Path], list[str]]:
    """The pictures by name, and what of the inputs cannot be read. Raises OptionError, ImageError."""
    plan = make_plan(args.inputs, f"{output / BICUBIC}/", recursive=args.recursive, file_format="png")
    found: dict[str, Path] = {}
    for job in map(FileJob.of, plan.jobs):
        if job.source == STREAM:
            raise OptionError("Standard input cannot be compared, as it is read once; give files or folders.")
        name = job.output.stem
        if name in found:
            raise OptionError(f"{found[name]} and {job.source} have the same name; rename one.")
        found[name] = job.source
    problems = [sentence for _, sentence in plan.unreadable]
    if not found:
        raise ImageError(problems[0] if problems else "There are no pictures; check the paths.")
    for problem in problems:
        logger.error("%s", problem)
    return found, problems


def _pairs(args: argparse.Namespace, lq: dict[str, Path], problems: list[str]) -> dict[str, PicturePair]:
    """Name -> LQ and ground truth; `result` is of nobody yet. Raises ImageError, OptionError."""
    from ..evaluate.folders import PicturePair, pictures_by_name

    if args.truth is None:
        return {name: PicturePair(name, path, None, path) for name, path in lq.items()}
    given = Path(args.truth)
    if not os.path.exists(given):
        raise ImageError(f"{given} does not exist; check the path.")
    truths = pictures_by_name(given) if os.path.isdir(given) else {}
    if not os.path.isdir(given):
        if len(lq) > 1:
            raise OptionError(f"There are {len(lq)} pictures, but {given} is one; give a folder as --truth.")
        truths = dict.fromkeys(lq, given)
    alone = sorted(lq.keys() - truths.keys())
    if len(alone) == len(lq):
        raise ImageError(f"No picture has the name of one in {given}; name them alike.")
    if alone:
        have = "has" if len(alone) == 1 else "have"
        problems.append(f"{some_of(alone)} {have} no ground truth of that name in {given}.")
        logger.error("%s", problems[-1])
    return {name: PicturePair(name, path, truths[name], path) for name, path in lq.items() if name in truths}


def _write_all(
    args: argparse.Namespace,
    comparison: Comparison,
    pairs: dict[str, PicturePair],
    problems: Sequence[str],
    data: dict[str, Any],
    output: Path,
) -> None:
    from ..evaluate.comparison import comparison_csv, comparison_markdown
    from ..evaluate.comparison_report import render_comparison

    title = args.title or output.resolve().name
    about = [f"{amount(len(comparison.pictures), 'picture')} of {', '.join(args.inputs)}"]
    about += [f"ground truth: {args.truth}"] if args.truth else []
    document = {"version": __version__, "schema_version": SCHEMA_VERSION, **data}
    makers = (
        lambda: json.dumps(document, indent=2) + "\n",
        lambda: comparison_csv(comparison),
        lambda: comparison_markdown(comparison, title, [*problems, *comparison.skipped.values()]),
        lambda: render_comparison(comparison, pairs, title, about, problems, args.report_pictures),
    )
    for name, make in zip(FILES, makers, strict=True):
        with writing(ImageError, f"{output / name} cannot be written", "choose another -o"):
            write_bytes_atomically(output / name, make().encode())
