"""`osediff tag`: tags that say what pictures show; one picture that fails does not stop the rest."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace

from ..batch.tagging import TagResult, TagSettings
from ..choices import TAG_LANGUAGES
from .jobs import make_plan
from .many import add_many, check_many, do_all, keeps_results
from .options import add_dtype_and_device, add_inputs, add_tagger, check_files, check_tags
from .outcome import Outcome
from .results import Results, ends_early, summary, unreadable_results

HELP = "say what pictures show"
EXAMPLES = """osediff tag photo.jpg --dape tagger.safetensors
osediff tag holiday/ --recursive --dape DAPE.pth --ram ram_swin_large_14m.pth --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_inputs(parser)
    add_tagger(parser)
    parser.add_argument("--language", choices=TAG_LANGUAGES, default="en", help="of the tags (default: en)")
    add_dtype_and_device(parser.add_argument, several=True)
    add_many(parser)


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    check_files(args.dape, args.ram)
    from ..dape.choice import tagger_files

    check_tags(args)
    plan = make_plan(args.inputs, None, recursive=args.recursive, column=args.column, shard=args.shard)
    check_many(args, plan.jobs)
    tagger_files(args.dape, args.ram)
    settings = TagSettings(**{one.name: getattr(args, one.name) for one in fields(TagSettings)})
    results = Results(keeps_results(args) or args.manifest is None)
    unreadable_results(plan.unreadable, results, TagResult)
    interrupted = ends_early(lambda: do_all(args, settings, plan.jobs, results, "tagging"))
    options = {"dape": args.dape, "ram": args.ram, "language": args.language}
    outcome = summary("tag", "tagged", results, plan.total, interrupted, options, plan.left_out)
    lines = [f"{r.input}: {r.prompt}" for r in results if isinstance(r, TagResult) and r.status == "tagged"]
    return replace(outcome, lines=lines)
