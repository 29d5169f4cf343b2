"""The command `osediff`: its commands in a table, how one is run, and how it is shown what came of it.

Another command is a module with HELP, `add_options(parser)` and `run(args)`, and its line in COMMANDS. Heavy packages
are imported by the commands when they run, so that help and errors in options come at once. Results go to stdout,
everything else (progress, warnings, errors) to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial

from ..errors import first_line
from ..version import __version__
from . import convert, degrade, download, evaluate, info, tag, upscale
from .entry import explained
from .options import Parser
from .outcome import FAILED, INTERRUPTED, Outcome

logger = logging.getLogger("osediff_core")

COMMANDS = {
    "upscale": upscale,
    "tag": tag,
    "degrade": degrade,
    "evaluate": evaluate,
    "convert": convert,
    "info": info,
    "download": download,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (sys.argv by default); returns the exit code: 0 done, 1 failed, 2 usage, 130 Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in argv, "--debug" in argv
    handler = _start_logging(debug)
    try:
        outcome = _outcome(argv, debug)
        _show(outcome, as_json)
        return outcome.status
    except BrokenPipeError:
        # the reader of our output left, as `| head` does; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def parser() -> argparse.ArgumentParser:
    """Its error is an OptionError, but for --help and --version, which print and exit. `run` is the command's."""
    root = Parser(
        prog="osediff",
        description="Restore and enlarge photos with one diffusion step (OSEDiff, arXiv 2406.08177).",
    )
    root.add_argument("--version", action="version", version=f"osediff {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = Parser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout and nothing else"
    )
    common.add_argument("--debug", action="store_true", help="log more, and show tracebacks of errors")
    for name, command in COMMANDS.items():
        options = commands.add_parser(name, parents=[common], help=command.HELP)
        command.add_options(options)
        options.set_defaults(run=command.run)
    return root


def _outcome(argv: list[str], debug: bool) -> Outcome:
    """The outcome of a command line; an error is logged and becomes an outcome too."""
    try:
        return explained(lambda: _run(argv), partial(_failure, debug))
    except Exception as error:  # the last resort: one sentence instead of a traceback
        text = f"{type(error).__name__}: {first_line(error)}"
        message = f"Something unforeseen went wrong ({text}); add --debug for the details."
        return _failure(debug, error, FAILED, message)


def _run(argv: list[str]) -> Outcome:
    args = parser().parse_args(argv)
    return args.run(args)


def _failure(debug: bool, error: BaseException, status: int, message: str) -> Outcome:
    logger.error("%s", message, exc_info=error if debug and status != INTERRUPTED else None)
    return Outcome(status, "", {"error": message, "kind": type(error).__name__})


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:  # in ASCII: file names may hold what stdout's encoding cannot
        print(json.dumps({"version": __version__, **outcome.data}, indent=2), flush=True)
    elif outcome.text:
        encoding = sys.stdout.encoding or "utf-8"
        print(outcome.text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


class _Handler(logging.StreamHandler):
    """Lines on stderr that leave the progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules:
            super().emit(record)
            return
        sys.modules["tqdm"].tqdm.write(self.format(record), file=sys.stderr)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        lead = "osediff: " if record.levelno <= logging.INFO else f"osediff: {record.levelname.lower()}: "
        return lead + line


def _start_logging(debug: bool) -> logging.Handler:
    handler = _Handler()
    handler.setFormatter(_Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    if not debug:
        # what these say about a damaged file is in our own sentence
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        logging.getLogger("PIL").setLevel(logging.ERROR)
    return handler
