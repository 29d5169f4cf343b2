"""`osediff upscale`: pictures are restored one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import os

from ..batch.restorer import UpscaleResult
from ..choices import TINY
from ..errors import CheckpointError
from .jobs import check_outputs
from .many import begin, do_all, plan_of
from .outcome import Outcome
from .results import ends_early, planned, summary
from .upscale_options import add_options, check, settings_of

__all__ = ["EXAMPLES", "HELP", "add_options", "run"]

HELP = "restore pictures"
EXAMPLES = """osediff upscale photo.jpg -o restored.png
osediff upscale holiday/ -o restored/ --recursive --skip-existing
osediff upscale scan.tif -o out/ --size 3840x2160 --base path/to/sd21-base --weights osediff.pkl
cat photo.jpg | osediff upscale - -o - > restored.png
"""


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    check(args)
    plan = plan_of(args)
    results, jobs = begin(args, plan, UpscaleResult)
    if args.dry_run:
        _check_model(args)
    else:
        check_outputs(jobs)
    interrupted = ends_early(lambda: do_all(args, settings_of(args), jobs, results, "restoring"))
    options = {"base": args.base, "weights": args.weights, "fidelity": args.fidelity}
    outcome = summary("upscale", "restored", results, plan.total, interrupted, options, plan.left_out)
    return planned(outcome, results) if args.dry_run else outcome


def _check_model(args: argparse.Namespace) -> None:
    """Raises BaseModelError, CheckpointError for what is not there; nothing is read or fetched."""
    from ..backends.find_base import find_base

    if not args.allow_download:
        find_base(args.base, revision=args.revision)
    for name in (args.weights, args.decoder, args.dape, args.ram):
        if name not in (None, TINY) and not os.path.exists(name):
            raise CheckpointError(f"{name} does not exist; check the path.")
