"""`osediff degrade`: good pictures are made bad one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.degrading import DegradeResult, DegradeSettings, Degrading
from ..choices import DEGRADATIONS
from ..errors import ImageError, OptionError
from ..printable import printable
from .jobs import Job, check_outputs
from .many import add_many, begin, do_all, plan_of
from .options import add_pictures, natural, positive
from .outcome import FAILED, Outcome
from .results import ends_early, planned, summary

if TYPE_CHECKING:
    from ..images import Cell, Picture

logger = logging.getLogger(__name__)

HELP = "make good pictures bad"
EXAMPLES = """osediff degrade photo.png -o bad.png
osediff degrade photos/ -o bad/ --preset codeformer --resize-back --seed 7 --sheet sheet.png
"""

_LONGEST_SHEET = 64  # pairs; more cannot be looked at


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_pictures(parser)
    add = parser.add_argument_group("degradation").add_argument
    add(
        "--preset",
        default="realesrgan",
        metavar="NAME|FILE.yaml",
        help=f"{', '.join(DEGRADATIONS)}, or a file of your own (default: realesrgan)",
    )
    add("--scale", type=positive, default=4.0, metavar="X", help="input / output size, from 1 (default: 4)")
    add("--seed", type=natural, default=0, metavar="N", help="another seed, other degradations (default: 0)")
    add("--resize-back", action="store_true", help="enlarge the results to the old size, as training does")
    add(
        "--official",
        action="store_true",
        default=None,
        help="compress and round as the code that OSEDiff was trained with (default: as the preset says)",
    )
    add("--sheet", metavar="FILE", help="also write the results beside the inputs as one picture, to look at")
    add_many(parser)


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    if args.scale < 1:
        raise OptionError(
            f"--scale {args.scale:g} would enlarge; give a number of at least 1, for example 4."
        )
    from ..degrade import find_preset

    find_preset(args.preset)
    plan = plan_of(args)
    sheet = _sheet_job(args, plan.jobs)
    results, jobs = begin(args, plan, DegradeResult)
    if not args.dry_run:
        check_outputs([*jobs, *sheet])
    options = {
        "preset": args.preset,
        "scale": args.scale,
        "seed": args.seed,
        "resize_back": args.resize_back,
        "official": args.official,
        "sheet": args.sheet,
    }
    pairs: list[Cell] = []
    given = {one.name: getattr(args, one.name) for one in fields(DegradeSettings) if hasattr(args, one.name)}
    settings = DegradeSettings(**given)

    def seen(hq: Picture, lq: Picture, said: str) -> None:
        if args.sheet and len(pairs) < _LONGEST_SHEET:
            pairs.append(_pair(hq, lq, printable(said)))

    work = Degrading(settings, seen)
    interrupted = ends_early(lambda: do_all(args, settings, jobs, results, "degrading", work))
    outcome = summary("degrade", "degraded", results, plan.total, interrupted, options, plan.left_out)
    if args.dry_run:
        return planned(outcome, results)
    if args.sheet and pairs:
        try:
            _write_sheet(Path(args.sheet), pairs)
        except ImageError as error:  # what was done is still told
            logger.error("%s", error)
            return replace(
                outcome, status=outcome.status or FAILED, data={**outcome.data, "error": str(error)}
            )
    return outcome


def _sheet_job(args: argparse.Namespace, jobs: list[Job]) -> list[Job]:
    """The sheet as a job of its own, or nothing."""
    if not args.sheet:
        return []
    if args.engine == "ray":
        raise OptionError(
            "--sheet is made in one process; leave out --engine ray, or make one of a few pictures."
        )
    from ..images import check_format

    path = Path(args.sheet)
    try:
        check_format(path)
    except ImageError as error:
        raise OptionError(f"--sheet: {error}") from None
    taken = {p.resolve() for job in jobs for p in (job.source, job.output) if isinstance(p, Path)}
    if path.resolve() in taken:
        raise OptionError(f"--sheet {path} is also an input or an output; choose another file.")
    return [Job(path, path)]


def _pair(hq: Picture, lq: Picture, caption: str) -> Cell:
    from PIL import Image

    from ..degrade.sheet import pair

    low, high = (Image.fromarray(picture.rgb8()) for picture in (lq, hq))
    return pair(low, high, caption)


def _write_sheet(path: Path, pairs: list[Cell]) -> None:
    import numpy as np

    from ..degrade.sheet import sheet_of
    from ..images import Picture, write_image

    sheet = sheet_of(pairs)
    write_image(path, Picture(np.asarray(sheet).astype(np.float32) / 255))
    logger.info("%s shows the results on the left, the inputs on the right", path)
