"""`osediff manifest`: what became of the pictures of a large run, as a table and a plot."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..batch.places import Remote, place_of
from ..errors import ImageError, OptionError, first_line, writing
from .outcome import DONE, Outcome

HELP = "sum up the manifest of a large run"
EXAMPLES = """osediff manifest restored/_manifest
osediff manifest s3://bucket/out/_manifest --plot run.png --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "manifest", metavar="FOLDER", help="what --manifest named, or OUT/_manifest of --engine ray"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="also draw pictures over time and seconds a picture: .png, .svg"
    )


def run(args: argparse.Namespace) -> Outcome:
    """Reads it and sums it up. Raises ImageError, OptionError."""
    folder = place_of(args.manifest)
    if not isinstance(folder, Remote) and not folder.is_dir():
        raise ImageError(f"{folder} is no folder; give that of --manifest, or OUT/_manifest.")
    try:
        from ..cluster.manifest import read_manifest

        rows = read_manifest(folder)
    except ImportError as error:
        raise OptionError(
            f"Manifests need pyarrow ({first_line(error)}); install it: pip install 'osediff[cluster]'."
        ) from error
    if not rows:
        raise ImageError(f"{folder} holds no manifest; give that of --manifest, or OUT/_manifest.")
    from ..cluster.report import as_text, plot, summary_of

    found = summary_of(rows)
    outcome = Outcome(DONE, as_text(found), {"command": "manifest", "manifest": args.manifest, **found})
    if args.plot:
        with writing(ImageError, f"{args.plot} cannot be written", "choose another --plot"):
            plot(rows, Path(args.plot))
        outcome = replace(outcome, data={**outcome.data, "plot": args.plot}, summary=[f"drawn: {args.plot}"])
    return outcome
