"""The command `osediff`: upscale, convert, info, download.

Heavy packages are imported by the commands when they need them, so that help and errors in options come at
once. Results go to stdout, everything else (progress, warnings, errors) to stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import __version__
from .commands.outcome import FAILED, INTERRUPTED, USAGE, Outcome
from .errors import OptionError, OSEDiffError, first_line

logger = logging.getLogger("osediff_core")

# Kept here as text, as color.py and tiling.py import torch; a test holds them equal.
COLOR_FIXES = ("adain", "wavelet", "lab", "none")
TILE_GRIDS = ("official",)
DTYPES = ("fp32", "fp16", "bf16")
FORMATS = ("png", "tiff", "webp", "jpeg")


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
    args = _parser().parse_args(argv)
    if args.command == "upscale":
        from .commands import upscale

        return upscale.run(args)
    if args.command == "download":
        from .commands import download

        return download.run(args)
    from .commands import weights

    return weights.convert(args) if args.command == "convert" else weights.info(args)


def _show(outcome: Outcome, as_json: bool) -> None:
    if as_json:  # in ASCII: file names may hold what stdout's encoding cannot
        print(json.dumps({"version": __version__, **outcome.data}, indent=2), flush=True)
    elif outcome.text:
        encoding = sys.stdout.encoding or "utf-8"
        print(outcome.text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one sentence, and JSON where that was asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="osediff",
        description="Restore and enlarge photos with one diffusion step (OSEDiff, arXiv 2406.08177).",
    )
    parser.add_argument("--version", action="version", version=f"osediff {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout and nothing else"
    )
    common.add_argument("--debug", action="store_true", help="log more, and show tracebacks of errors")
    upscale = commands.add_parser("upscale", parents=[common], help="restore pictures")
    _add_files(upscale)
    _add_model(upscale)
    _add_restoration(upscale)

    convert = commands.add_parser("convert", parents=[common], help="OSEDiff weights: .pkl <-> .safetensors")
    convert.add_argument("input", metavar="IN", help="OSEDiff weights, official .pkl or .safetensors")
    convert.add_argument(
        "output", metavar="OUT", help="file to write; its suffix, .pkl or .safetensors, says how"
    )
    convert.add_argument("--dtype", choices=DTYPES, help="precision to store (default: as in the input)")

    info = commands.add_parser("info", parents=[common], help="what a checkpoint or base model is and holds")
    info.add_argument("path", metavar="PATH", help="a checkpoint file, a diffusers folder, or tiny")

    download = commands.add_parser("download", parents=[common], help="fetch published weights")
    download.add_argument("names", metavar="NAME", nargs="*", help="files to fetch, as --list names them")
    download.add_argument("--to", metavar="FOLDER", help="where to put them; made if missing")
    download.add_argument("--list", action="store_true", help="show what can be fetched, and fetch nothing")
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", metavar="IN", nargs="+", help="pictures, or folders of pictures")
    add(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a file (for one picture) or a folder, made if missing",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale", type=_scale, default=4.0, metavar="X", help="output / input size (default: 4)"
    )
    size.add_argument("--size", type=_size, metavar="WxH", help="output size in pixels instead of --scale")
    add(
        "--format",
        choices=FORMATS,
        help="file format in an output folder (default: the input's, JPEG becomes PNG)",
    )
    add("--recursive", action="store_true", help="search sub-folders, and keep them in the output")
    add("--skip-existing", action="store_true", help="leave out pictures whose output is there")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--base",
        default="tiny",
        metavar="BASE",
        help="tiny, a diffusers folder, an SD checkpoint, or a hub id",
    )
    add("--weights", metavar="FILE", help="OSEDiff weights, .pkl or .safetensors (default: the base's own)")
    add(
        "--strength",
        type=_strength,
        default=1.0,
        metavar="S",
        help="of the OSEDiff weights; S or UNET,VAE (default: 1)",
    )
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="default: fp16 on an accelerator, fp32 on the CPU",
    )
    add(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps, xpu (default: auto)"
    )
    add("--allow-download", action="store_true", help="let a hub id given as --base be downloaded")
    add("--revision", metavar="REV", help="commit or branch of a hub id")


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("restoration").add_argument
    add("--prompt", default="", metavar="TEXT", help="what the pictures show (default: nothing)")
    add(
        "--color-fix",
        choices=COLOR_FIXES,
        default="adain",
        help="give back the input's colours (default: adain)",
    )
    add(
        "--color-weight",
        type=_share,
        default=1.0,
        metavar="W",
        help="how much of the colour fix, 0 to 1 (default: 1)",
    )
    add(
        "--tile",
        type=_natural,
        default=96,
        metavar="N",
        help="tile side in latents, 0 for none (default: 96)",
    )
    add(
        "--overlap",
        type=_natural,
        metavar="N",
        help="overlap of tiles in latents (default: a third of --tile)",
    )
    add("--tile-grid", choices=TILE_GRIDS, default="official", help="how tiles are laid (default: official)")
    add(
        "--sample-posterior",
        action="store_true",
        help="draw the latent as the official code does; not its mode",
    )
    add("--seed", type=_natural, default=0, metavar="N", help="of --sample-posterior (default: 0)")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _scale(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return value


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        size = (_natural(width), _natural(height))
    except argparse.ArgumentTypeError:
        size = (0, 0)
    if 0 in size:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, for example 1920x1080")
    return size


def _strength(text: str) -> float | tuple[float, float]:
    parts = [_number(part) for part in text.split(",")]
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not one number, or two as UNET,VAE")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])
