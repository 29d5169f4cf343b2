"""The command `osediff`: upscale, tag, degrade, evaluate, convert, info, download.

Heavy packages are imported by the commands when they need them, so that help and errors in options come at
once. Results go to stdout, everything else (progress, warnings, errors) to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import OptionError, OSEDiffError, first_line
from .options import parser
from .outcome import FAILED, INTERRUPTED, USAGE, Outcome

logger = logging.getLogger("osediff_core")


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


def _outcome(argv: list[str], debug: bool) -> Outcome:
    """What the command line came to; an error is logged and becomes an outcome too."""
    try:
        return _run(argv)
    except OSEDiffError as error:
        return _failure(error, USAGE if isinstance(error, OptionError) else FAILED, str(error), debug)
    except KeyboardInterrupt as error:
        return _failure(error, INTERRUPTED, "interrupted", debug=False)
    except Exception as error:  # the last resort: one sentence instead of a traceback
        text = f"{type(error).__name__}: {first_line(error)}"
        message = f"Something unforeseen went wrong ({text}); add --debug for the details."
        return _failure(error, FAILED, message, debug)


def _failure(error: BaseException, status: int, message: str, debug: bool) -> Outcome:
    logger.error("%s", message, exc_info=error if debug else None)
    return Outcome(status, "", {"error": message, "kind": type(error).__name__})


def _run(argv: list[str]) -> Outcome:
    args = parser().parse_args(argv)
    if args.command == "upscale":
        from . import upscale

        return upscale.run(args)
    if args.command == "tag":
        from . import tag

        return tag.run(args)
    if args.command == "degrade":
        from . import degrade

        return degrade.run(args)
    if args.command == "evaluate":
        from . import evaluate

        return evaluate.run(args)
    if args.command == "download":
        from . import download

        return download.run(args)
    from . import weights

    return weights.convert(args) if args.command == "convert" else weights.info(args)


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
