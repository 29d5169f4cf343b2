"""`osediff tag`: tags that say what pictures show; one picture that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choices import TAG_LANGUAGES
from .jobs import find_inputs
from .options import add_dtype_and_device, add_inputs, add_tagger
from .outcome import Outcome
from .results import Result, ends_early, failed, may_fail, progress_bar, summary

if TYPE_CHECKING:
    from ..dape import Tagger

logger = logging.getLogger(__name__)

HELP = "say what pictures show"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_inputs(parser)
    parser.add_argument("--recursive", action="store_true", help="search sub-folders")
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
    from ..dape.choice import open_tagger

    found, unreadable = find_inputs([Path(p) for p in args.inputs], recursive=args.recursive)
    results: list[Result] = [failed(TagResult(str(path), None), message) for path, message in unreadable]
    tagger = open_tagger(args.dape, args.ram, dtype=args.dtype, device=args.device)
    interrupted = ends_early(lambda: _tag_all(args, tagger, [source for source, _ in found], results))
    total = len(found) + len(unreadable)
    options = {"dape": args.dape, "ram": args.ram, "language": args.language}
    outcome = summary("tag", "tagged", results, total, interrupted, options)
    lines = [f"{r.input}: {r.prompt}" for r in results if isinstance(r, TagResult) and r.status == "tagged"]
    return replace(outcome, text="\n".join([*lines, outcome.text]))


def _tag_all(args: argparse.Namespace, tagger: Tagger, sources: list[Path], results: list[Result]) -> None:
    """Appends one result per picture when it begins."""
    for source in progress_bar(sources, "tagging"):
        result = TagResult(str(source), None)
        results.append(result)
        with may_fail(result, "tagged", args.debug):
            _tag_one(args, tagger, source, result)


def _tag_one(args: argparse.Namespace, tagger: Tagger, source: Path, result: TagResult) -> None:
    from ..dape import prompt_of
    from ..images import read_image

    start = time.perf_counter()
    picture = read_image(source)
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
        logger.warning("%s: %s", source, note)
