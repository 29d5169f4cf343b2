"""`osediff tag`: tags that say what pictures show; one picture that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..batch.record import Result, may_fail
from ..choices import TAG_LANGUAGES
from .jobs import Job, find_inputs, read_source
from .options import add_dtype_and_device, add_inputs, add_tagger, check_files, check_tags
from .outcome import Outcome
from .progress import Progress
from .results import ends_early, summary, unreadable_results

if TYPE_CHECKING:
    from ..dape import Tagger

logger = logging.getLogger(__name__)

HELP = "say what pictures show"
EXAMPLES = """osediff tag photo.jpg --dape tagger.safetensors
osediff tag holiday/ --recursive --dape DAPE.pth --ram ram_swin_large_14m.pth --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_inputs(parser)
    add_tagger(parser)
    parser.add_argument("--language", choices=TAG_LANGUAGES, default="en", help="of the tags (default: en)")
    add_dtype_and_device(parser.add_argument)


@dataclass
class TagResult(Result):
    """tags: each with name, score and index into RAM's list. prompt: as `osediff upscale` would make it."""

    tags: list[dict[str, Any]] | None = None
    prompt: str | None = None


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    check_files(args.dape, args.ram)
    from ..dape.choice import open_tagger

    check_tags(args)
    found = find_inputs([Path(one) for one in args.inputs], recursive=args.recursive)
    results = unreadable_results(found.unreadable, TagResult)
    tagger = open_tagger(args.dape, args.ram, dtype=args.dtype, device=args.device)
    jobs = [Job(source, source) for source, _ in found.pictures]
    interrupted = ends_early(lambda: _tag_all(args, tagger, jobs, results))
    total = len(jobs) + len(found.unreadable)
    options = {"dape": args.dape, "ram": args.ram, "language": args.language}
    outcome = summary("tag", "tagged", results, total, interrupted, options, found.left_out)
    lines = [f"{r.input}: {r.prompt}" for r in results if isinstance(r, TagResult) and r.status == "tagged"]
    return replace(outcome, lines=lines)


def _tag_all(args: argparse.Namespace, tagger: Tagger, jobs: list[Job], results: list[Result]) -> None:
    """Appends one result per picture when it begins."""
    with Progress(args, jobs, "tagging") as progress:
        for job in progress:
            result = TagResult(str(job.source), None)
            results.append(result)
            progress.begin(result.input)
            with may_fail(result, "tagged", args.debug):
                _tag_one(args, tagger, job, result)
            progress.end(result)


def _tag_one(args: argparse.Namespace, tagger: Tagger, job: Job, result: TagResult) -> None:
    from ..dape import prompt_of

    start = time.perf_counter()
    picture = read_source(job)
    result.input_size, result.notes = list(picture.size), list(picture.notes)
    (tags,) = tagger.tag(
        [picture.planes()],
        threshold_offset=args.tag_offset,
        exclude=args.exclude_tags,
        language=args.language,
    )
    result.tags = [tag._asdict() for tag in tags]
    result.prompt = prompt_of(tags, official=args.official_prompt)
    result.status = "tagged"
    result.seconds = round(time.perf_counter() - start, 3)
    for note in result.notes:
        logger.warning("%s: %s", job.source, note)
