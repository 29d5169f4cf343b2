"""Options that several commands share: their groups, their values, and the parser that refuses others."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from ..choices import DTYPES
from ..errors import OptionError
from .jobs import FORMATS


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one sentence, and JSON where that was asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Options for the pictures to read, and for the results: where and in which format."""
    add = parser.add_argument
    add_inputs(parser)
    add(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a file (for one picture) or a folder, made if missing",
    )
    add(
        "--format",
        choices=FORMATS,
        help="file format in an output folder (default: the input's, JPEG becomes PNG)",
    )
    add("--recursive", action="store_true", help="search sub-folders, and keep them in the output")
    add("--skip-existing", action="store_true", help="leave out pictures whose output is there")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The pictures to read."""
    parser.add_argument("inputs", metavar="IN", nargs="+", help="pictures, or folders of pictures")


def add_tagger(parser: argparse.ArgumentParser) -> None:
    """Options of the tagger, and of the tags that are used."""
    add = parser.add_argument_group("tagger").add_argument
    add(
        "--dape",
        metavar="FILE",
        help="tiny (the embedded tagger), a tagger written by osediff convert (.safetensors), or DAPE.pth beside --ram",
    )
    add("--ram", metavar="FILE", help="ram_swin_large_14m.pth; without --dape, RAM alone")
    add("--exclude-tags", type=names, default=(), metavar="A,B", help="tags that are never used")
    add("--tag-offset", type=number, default=0.0, metavar="X", help="added to every threshold (default: 0)")
    add(
        "--official-prompt",
        action="store_true",
        help='as the official test code: "a, b, TEXT,", without TEXT "a, b, ,"',
    )


def add_dtype_and_device(add: Callable[..., object]) -> None:
    """In which precision, and where. add: `add_argument` of a parser or of a group."""
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="default: fp16 on an accelerator, fp32 on the CPU (bf16 is twice as fast on one that has it)",
    )
    add_device(add)


def add_device(add: Callable[..., object]) -> None:
    """The device option. add: `add_argument` of a parser or of a group."""
    add(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps, xpu (default: auto)"
    )


def number(text: str) -> float:
    """Any finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def between(low: int, high: int) -> Callable[[str], float]:
    """The type of a number from `low` to `high`."""

    def parse(text: str) -> float:
        value = number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not between {low} and {high}")
        return value

    return parse


def natural(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
