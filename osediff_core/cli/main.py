"""The command `osediff`: its commands in a table, how one is run, and how it is shown what came of it.

Another command is a module with HELP, EXAMPLES, `add_options(parser)` and `run(args)`, and its line in COMMANDS. Heavy
packages are imported by the commands when they run, so that help and errors in options come at once. Results go to
stdout, everything else (progress, warnings, errors) to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ..errors import OptionError, unforeseen
from ..interrupts import heard
from ..printable import quoted
from ..version import SCHEMA_VERSION, __version__
from . import (
    compare,
    completion,
    convert,
    degrade,
    doctor,
    download,
    evaluate,
    info,
    manifest,
    tag,
    upscale,
)
from .entry import explained
from .options import Parser, add_common
from .outcome import DONE, FAILED, Outcome
from .progress import tell
from .signals import ending, listening
from .streams import Handler, complain, open_missing, say, set_levels

logger = logging.getLogger("osediff_core")

COMMANDS = {
    "upscale": upscale,
    "tag": tag,
    "degrade": degrade,
    "evaluate": evaluate,
    "compare": compare,
    "manifest": manifest,
    "convert": convert,
    "info": info,
    "download": download,
    "doctor": doctor,
    "completion": completion,
}
EXAMPLES = """osediff upscale photo.jpg -o restored.png
osediff upscale holiday/ -o restored/ --recursive
osediff info weights.pkl
osediff doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (sys.argv by default); returns the exit code: 0 done, 1 failed, 2 usage, 130 Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    open_missing()
    before = set(argv[: argv.index("--")] if "--" in argv else argv)
    # until the line is parsed, and where it cannot be
    shown = argparse.Namespace(
        json="--json" in before,
        json_lines="--json-lines" in before,
        quiet=bool(before & {"-q", "--quiet"}),
        debug="--debug" in before,
    )
    handler = Handler()
    logger.addHandler(handler)
    logger.propagate = False
    outcome = None
    try:
        with listening():
            try:
                set_levels(shown)
                outcome = _outcome(argv, shown)
                return _show(outcome, shown)
            except KeyboardInterrupt as error:  # before the work began, or when it was done
                word, status = ending()
                if outcome is None:
                    return _show(_failure(shown, error, status, word), shown)
                complain(f"osediff: error: {word}")
                return status
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def parser() -> Parser:
    """Its error is an OptionError, but for --help and --version, which print and exit. `run` is the command's."""
    root = Parser(
        prog="osediff",
        description="Restore and enlarge photos with one diffusion step (OSEDiff, arXiv 2406.08177).",
        examples=EXAMPLES,
    )
    root.add_argument("--version", action="version", version=f"osediff {__version__}")
    add_common(root)
    commands = root.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.type = str  # of all that stands behind the name, which is the command's to check
    for name, command in COMMANDS.items():
        said = f"{command.HELP[:1].upper()}{command.HELP[1:]}."
        options = commands.add_parser(name, help=command.HELP, description=said, examples=command.EXAMPLES)
        command.add_options(options)
        add_common(options, default=argparse.SUPPRESS)  # one that was given before the name stays
        options.set_defaults(run=command.run)
        root.commands[name] = options
    return root


def _outcome(argv: list[str], shown: argparse.Namespace) -> Outcome:
    """The outcome of a command line; an error is logged and becomes an outcome too."""
    tell_failure = partial(_failure, shown)
    try:
        return explained(lambda: _run(argv, shown), tell_failure)
    except Exception as error:  # the last resort: one sentence instead of a traceback
        message = f"Something unforeseen went wrong ({unforeseen(error)}); add --debug for the details."
        return tell_failure(error, FAILED, message)


def _run(argv: list[str], shown: argparse.Namespace) -> Outcome:
    for word in argv:
        if "\0" in word:
            raise OptionError(f"{quoted(word)} holds a NUL, which no path and no option can; leave it out.")
        if re.fullmatch(
            r"--?[a-z-]+=--", word
        ):  # argparse takes that for the mark behind which no options are
            raise OptionError(f"{quoted(word)} gives no value; write one behind the =.")
    reader = parser()
    args = reader.parse_args(argv)
    for name in vars(shown):
        setattr(shown, name, getattr(args, name))
    set_levels(shown)
    if args.json and args.json_lines:
        raise OptionError("--json-lines ends with the document of --json; give one of the two.")
    args.parser = reader
    if args.command is not None:
        return args.run(args)
    if args.json or args.json_lines:
        raise OptionError(f"Name a command: {', '.join(COMMANDS)}; see osediff --help.")
    return Outcome(DONE, reader.format_help().splitlines(), {})


def _failure(shown: argparse.Namespace, error: BaseException, status: int, message: str) -> Outcome:
    logger.error("%s", message, exc_info=error if shown.debug and not heard else None)
    kind = KeyboardInterrupt.__name__ if heard else type(error).__name__
    return Outcome(status, [], {"error": message, "kind": kind})


def _show(outcome: Outcome, shown: argparse.Namespace) -> int:
    """Prints what came of it, and gives back the exit code: that of the work, unless nothing could be shown."""
    document = {"version": __version__, "schema_version": SCHEMA_VERSION, **outcome.data}
    if shown.json_lines:
        tell("end", **document)
        return outcome.status
    if shown.json:  # in ASCII: file names may hold what stdout's encoding cannot
        text = json.dumps(document, indent=2).replace("\x7f", r"\u007f")
    else:
        text = (replace(outcome, summary=()) if shown.quiet else outcome).text
    error = say(text) if text else None
    if error is not None:
        complain(
            f"osediff: error: Standard output takes no more ({error.strerror}); what was done stays done."
        )
        return outcome.status or FAILED
    return outcome.status
