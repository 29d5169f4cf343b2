"""Options that several commands share: their groups, their values, and the parser that refuses others."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..batch.job import FORMATS, Job
from ..batch.places import STREAM
from ..choices import DTYPES, JPEG_QUALITY
from ..errors import CheckpointError, OptionError
from ..printable import quoted
from ..regular import check_regular
from .naming import Template

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)


DOCS = "https://github.com/osediff/ComfyUI-OSEDiff/blob/main/docs/cli.md"
EXIT_CODES = """exit codes:
  0 all done   1 something failed   2 the options make no sense, nothing was done
  130 interrupted (Ctrl-C), 143 terminated; what was finished is kept"""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one sentence, and JSON where that was asked for.

    commands: the parsers of the commands, by name.
    """

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:  # noqa: ANN401 - argparse's own
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        if examples:
            options["epilog"] = f"examples:\n{textwrap.indent(examples, '  ')}\n{EXIT_CODES}\n\nmore: {DOCS}"
        super().__init__(*args, allow_abbrev=False, **options)
        self.commands: dict[str, Parser] = {}
        self.register("type", None, filled)  # of all values that have no type of their own

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


def filled(text: str) -> str:
    """Any text but none: that is what an unset variable of a shell leaves."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "is empty (an unset variable?); give a value, or leave the option out"
        )
    return text


filled.__name__ = "text"


def add_common(parser: argparse.ArgumentParser, **options: Any) -> None:  # noqa: ANN401 - argparse's own
    """Options of every command, before its name or behind it. options: further ones of `add_argument`."""
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print one JSON document on stdout and nothing else", **options)
    add(
        "--json-lines",
        action="store_true",
        help="print progress as lines of JSON on stdout, the document last, and nothing else",
        **options,
    )
    add("-q", "--quiet", action="store_true", help="say nothing but warnings and errors", **options)
    add("--no-progress", action="store_true", help="show no progress bar", **options)
    add("--debug", action="store_true", help="log more, and show tracebacks of errors", **options)


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Options for the pictures to read, and for the results: where and in which format."""
    add_inputs(parser)
    add = parser.add_argument_group("results").add_argument
    add(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a file (for one picture), a folder, made if missing, or - for standard output",
    )
    add(
        "--format",
        choices=FORMATS,
        help="file format in an output folder or on standard output (default: the input's, JPEG becomes PNG)",
    )
    add(
        "--name",
        type=template,
        metavar="TEMPLATE",
        help="names in an output folder, of {stem} and {number}, as {stem}_x4 (default: {stem})",
    )
    add(
        "--jpeg-quality",
        type=whole(1, 100),
        metavar="N",
        help=f"of results in JPEG, 1 to 100 (default: {JPEG_QUALITY})",
    )
    add("--keep-metadata", action="store_true", help="carry over EXIF (camera, date, place) and resolution")
    add("--skip-existing", action="store_true", help="leave out pictures whose output is there")
    add(
        "--dry-run",
        action="store_true",
        help="read the pictures and say what would be written; write nothing",
    )


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The pictures to read."""
    add = parser.add_argument
    add(
        "inputs",
        metavar="IN",
        nargs="+",
        help="pictures, folders of pictures, .txt lists of paths, webdataset .tar, .parquet, URIs of S3, GCS and the "
        "like, or - for standard input",
    )
    add("--recursive", action="store_true", help="search sub-folders, and keep them in the output")
    add(
        "--column",
        metavar="NAME",
        help="of .parquet: with the pictures' bytes (default: the only such, or image)",
    )


def check_pictures(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Refuses and warns of options of `add_pictures` that make no sense. Raises OptionError."""
    if STREAM in (job.output for job in jobs) and (args.json or args.json_lines):
        raise OptionError(
            "Standard output takes the picture (-o -) or JSON, not both; write the picture to a file."
        )
    suffixes = {job.output.suffix.lower() for job in jobs if job.output != STREAM}
    jpeg = bool(suffixes & {".jpg", ".jpeg", ".jpe", ".jfif"}) or args.format == "jpeg"
    without_effect(args.jpeg_quality is not None and not jpeg, "--jpeg-quality", "no result is a JPEG")


def without_effect(given: bool, option: str, why: str) -> None:
    """Warns of an option that changes nothing."""
    if given:
        logger.warning("%s has no effect, as %s", option, why)


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


def check_files(*names: str | None) -> None:
    """Refuses what is neither file nor folder before anything is imported to read it. Raises CheckpointError."""
    for name in names:
        if name is not None and os.path.exists(name) and not os.path.isdir(name):
            check_regular(name, CheckpointError)


def check_tags(args: argparse.Namespace) -> None:
    """Refuses tags to exclude that there are not. Raises OptionError."""
    if args.exclude_tags:
        from ..dape.tags import check_names

        check_names(args.exclude_tags)


def add_dtype_and_device(add: Callable[..., object], several: bool = False) -> None:
    """In which precision, and where. add: `add_argument` of a parser or of a group. several: devices side by side."""
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="default: fp16 on an accelerator, fp32 on the CPU (bf16 is twice as fast on one that has it)",
    )
    add_device(add, several)


def add_device(add: Callable[..., object], several: bool = False) -> None:
    """The device option, as in `add_dtype_and_device`."""
    more = "; several as cuda:0,cuda:1, or all: a process for each" if several else ""
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help=f"auto, cpu, cuda, cuda:1, mps, xpu (default: auto){more}",
    )


def number(text: str) -> float:
    """Any finite number, in ASCII and with a point."""
    if not _NUMBER.fullmatch(text.strip()):
        comma = text.strip().replace(",", ".", 1)
        hint = f"; write {comma}" if _NUMBER.fullmatch(comma) else ""
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number{hint}")
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is too large")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not above 0")
    return value


def between(low: int, high: int) -> Callable[[str], float]:
    """The type of a number from `low` to `high`."""

    def parse(text: str) -> float:
        value = number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not between {low} and {high}")
        return value

    return parse


def natural(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number of 0 or more")
    return int(text)


def whole(low: int, high: int) -> Callable[[str], int]:
    """The type of a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        value = natural(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not between {low} and {high}")
        return value

    return parse


def names(text: str) -> tuple[str, ...]:
    """Words between commas, at least one."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("is empty (an unset variable?); give names, or leave the option out")
    return found


def template(text: str) -> Template:
    """How results are called."""
    try:
        return Template(filled(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(text)} {error}") from None
