"""`osediff degrade`: good pictures are made bad one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..batch.record import Result, may_fail
from ..choices import DEGRADATIONS
from ..errors import ImageError, OptionError
from ..interrupts import held
from ..printable import printable
from .jobs import Job, check_outputs, make_plan, read_source, write_result, written_as
from .options import add_pictures, check_pictures, natural, positive
from .outcome import FAILED, Outcome
from .progress import Progress
from .results import ends_early, planned, skip_existing, summary, unreadable_results

if TYPE_CHECKING:
    from ..degrade import Degradation
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


@dataclass
class DegradeResult(Result):
    """degradation: all that was done, with every number."""

    degradation: dict[str, Any] | None = None


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    if args.scale < 1:
        raise OptionError(
            f"--scale {args.scale:g} would enlarge; give a number of at least 1, for example 4."
        )
    from ..degrade import find_preset

    find_preset(args.preset)
    plan = make_plan(
        args.inputs, args.output, recursive=args.recursive, file_format=args.format, name=args.name
    )
    check_pictures(args, plan.jobs)
    sheet = _sheet_job(args, plan.jobs)
    results = unreadable_results(plan.unreadable, DegradeResult)
    jobs = skip_existing(plan.jobs, results, DegradeResult) if args.skip_existing else plan.jobs
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
    interrupted = ends_early(lambda: _degrade_all(args, plan.jobs, jobs, results, pairs))
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
    from ..images import check_format

    path = Path(args.sheet)
    try:
        check_format(path)
    except ImageError as error:
        raise OptionError(f"--sheet: {error}") from None
    taken = {p.resolve() for job in jobs for p in (job.source, job.output)}
    if path.resolve() in taken:
        raise OptionError(f"--sheet {path} is also an input or an output; choose another file.")
    return [Job(path, path)]


def _degrade_all(
    args: argparse.Namespace, numbered: list[Job], jobs: list[Job], results: list[Result], pairs: list[Cell]
) -> None:
    """Appends one result per job when it begins. A picture's number is its place among all, skipped ones too."""
    number = {job: index for index, job in enumerate(numbered)}
    with Progress(args, jobs, "degrading") as progress:
        for job in progress:
            result = DegradeResult(str(job.source), str(job.output))
            results.append(result)
            progress.begin(result.input)
            with may_fail(result, "degraded", args.debug):
                _degrade_one(args, job, number[job], result, pairs)
            progress.end(result)


def _degrade_one(
    args: argparse.Namespace, job: Job, index: int, result: DegradeResult, pairs: list[Cell]
) -> None:
    from ..images import check_format

    start = time.perf_counter()
    picture = read_source(job)
    result.input_size, result.notes = list(picture.size), list(picture.notes)
    check_format(written_as(job, args.format), alpha=picture.alpha is not None)
    if picture.bits == 16:
        result.notes.append("its 16 bits per channel become 8, as degraded pictures have no more")
    if args.dry_run:
        result.status, result.output_size = "planned", _size_of(args, picture)
        return
    lq, degradation = _degraded(args, picture, index)
    for note in result.notes:
        logger.warning("%s: %s", job.source, note)
    with held():
        write_result(job, lq, args)
        result.status, result.output_size = "degraded", list(lq.size)
        result.degradation = degradation.as_dict()
        result.seconds = round(time.perf_counter() - start, 3)
    logger.info("%s -> %s (%s)", job.source, job.output, degradation.describe())
    if args.sheet and len(pairs) < _LONGEST_SHEET:
        pairs.append(_pair(picture, lq, printable(f"{job.source.name}: {degradation.describe()}")))


def _size_of(args: argparse.Namespace, picture: Picture) -> list[int]:
    from ..geometry import target_size

    return list(picture.size if args.resize_back else target_size(*picture.size, scale=1 / args.scale))


def _degraded(args: argparse.Namespace, picture: Picture, index: int) -> tuple[Picture, Degradation]:
    """Alpha is only resized, and what it hides does not bleed into the blur."""
    import torch

    from ..degrade import degrade
    from ..geometry import fill_transparent, resize_clipped

    rgb = torch.from_numpy(picture.rgb).permute(2, 0, 1)[None]
    alpha = None if picture.alpha is None else torch.from_numpy(picture.alpha)[None, None]
    if alpha is not None:
        rgb = fill_transparent(rgb, alpha)
    lq, (degradation,) = degrade(
        rgb, args.preset, args.scale, args.seed, args.resize_back, index, args.official
    )
    if alpha is not None:
        alpha = resize_clipped(alpha, (lq.shape[-1], lq.shape[-2]))[0, 0].numpy()
    result = replace(picture, rgb=lq[0].permute(1, 2, 0).contiguous().numpy(), alpha=alpha, bits=8)
    if picture.single_channel and not bool((lq[:, :1] == lq).all()):
        # noise or JPEG gave it colours, which neither one channel nor a grey profile describes
        result = replace(result, single_channel=False, icc=None)
    return result, degradation


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
