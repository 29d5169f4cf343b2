"""What the command `osediff` understands: its sub-commands, their options and how these are checked.

Nothing heavy is imported here, so that help and errors in options come at once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from .. import __version__
from ..errors import OptionError

# Kept here as text, as the modules that have them import torch; a test holds them equal.
COLOR_FIXES = ("adain", "wavelet", "lab", "none")
TILE_GRIDS = ("balanced", "official")
VAE_ATTENTIONS = ("auto", "exact", "pooled")
DTYPES = ("fp32", "fp16", "bf16")
FORMATS = ("png", "tiff", "webp", "jpeg")
LANGUAGES = ("en", "zh")
METRIC_NAMES = ("psnr", "ssim", "lpips", "dists", "fid", "niqe", "maniqa", "musiq", "clipiqa", "d2")
METRIC_DEFAULT = ("osediff", "d2")
PRESETS = ("realesrgan", "light", "jpeg", "blur", "codeformer", "bsrgan", "bsrgan_plus")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other error: one sentence, and JSON where that was asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


_DEVICE = {
    "default": "auto",
    "metavar": "DEVICE",
    "help": "auto, cpu, cuda, cuda:1, mps, xpu (default: auto)",
}


def parser() -> argparse.ArgumentParser:
    """Its error is an OptionError, but for --help and --version, which print and exit."""
    root = _Parser(
        prog="osediff",
        description="Restore and enlarge photos with one diffusion step (OSEDiff, arXiv 2406.08177).",
    )
    root.add_argument("--version", action="version", version=f"osediff {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout and nothing else"
    )
    common.add_argument("--debug", action="store_true", help="log more, and show tracebacks of errors")
    upscale = commands.add_parser("upscale", parents=[common], help="restore pictures")
    _add_pictures(upscale)
    _add_size(upscale)
    _add_model(upscale)
    _add_restoration(upscale)
    _add_tagger(upscale)

    tag = commands.add_parser("tag", parents=[common], help="say what pictures show")
    tag.add_argument("inputs", metavar="IN", nargs="+", help="pictures, or folders of pictures")
    tag.add_argument("--recursive", action="store_true", help="search sub-folders")
    _add_tagger(tag)
    tag.add_argument("--language", choices=LANGUAGES, default="en", help="of the tags (default: en)")
    _add_device(tag.add_argument)

    degrade = commands.add_parser("degrade", parents=[common], help="make good pictures bad")
    _add_pictures(degrade)
    _add_degradation(degrade)

    evaluate = commands.add_parser("evaluate", parents=[common], help="measure results against ground truth")
    _add_evaluation(evaluate)

    convert = commands.add_parser(
        "convert", parents=[common], help="OSEDiff weights: .pkl <-> .safetensors; RAM and DAPE in one file"
    )
    convert.add_argument("input", metavar="IN", help="OSEDiff weights (.pkl, .safetensors), or RAM's (.pth)")
    convert.add_argument(
        "output", metavar="OUT", help="file to write; its suffix, .pkl or .safetensors, says how"
    )
    convert.add_argument(
        "--dtype", choices=DTYPES, help="precision to store (default: as in the input, of RAM fp16)"
    )
    convert.add_argument("--dape", metavar="FILE", help="DAPE.pth, to be put into one file with RAM")

    info = commands.add_parser("info", parents=[common], help="what a checkpoint or base model is and holds")
    info.add_argument("path", metavar="PATH", help="a checkpoint file, a diffusers folder, or tiny")

    download = commands.add_parser("download", parents=[common], help="fetch published weights")
    download.add_argument("names", metavar="NAME", nargs="*", help="files to fetch, as --list names them")
    download.add_argument("--to", metavar="FOLDER", help="where to put them; made if missing")
    download.add_argument("--list", action="store_true", help="show what can be fetched, and fetch nothing")
    return root


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", metavar="IN", nargs="+", help="pictures, or folders of pictures")
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


def _add_size(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale", type=_scale, default=4.0, metavar="X", help="output / input size (default: 4)"
    )
    size.add_argument("--size", type=_size, metavar="WxH", help="output size in pixels instead of --scale")


def _add_degradation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("degradation").add_argument
    add(
        "--preset",
        default="realesrgan",
        metavar="NAME|FILE.yaml",
        help=f"{', '.join(PRESETS)}, or a file of your own (default: realesrgan)",
    )
    add("--scale", type=_scale, default=4.0, metavar="X", help="input / output size, from 1 (default: 4)")
    add("--seed", type=_natural, default=0, metavar="N", help="another seed, other degradations (default: 0)")
    add("--resize-back", action="store_true", help="enlarge the results to the old size, as training does")
    add(
        "--official",
        action="store_true",
        default=None,
        help="compress and round as the code that OSEDiff was trained with (default: as the preset says)",
    )
    add("--sheet", metavar="FILE", help="also write the results beside the inputs as one picture, to look at")


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("results", metavar="RESULTS", help="a folder of results, or one picture")
    add(
        "truth",
        metavar="GROUND_TRUTH",
        nargs="?",
        help="what they should be, under the same names; without it only no-reference metrics are computed",
    )
    add("--lq", metavar="LQ", help="what they were made from, under the same names: also measures bicubic")
    add("-o", "--output", metavar="OUT", help="folder for evaluation.json, .csv and .md and report.html")
    add(
        "--metrics",
        default=",".join(METRIC_DEFAULT),
        metavar="NAMES",
        help=f"osediff (the paper's nine), or some of {', '.join(METRIC_NAMES)} (default: osediff,d2)",
    )
    add("--device", **_DEVICE)
    add("--allow-download", action="store_true", help="let pyiqa fetch the weights of metrics")
    add("--seed", type=_natural, default=0, metavar="N", help="of the bootstrap intervals (default: 0)")
    add("--title", metavar="TEXT", help="of the report (default: the folder's name)")
    add(
        "--report-pictures",
        type=_natural,
        default=24,
        metavar="N",
        help="at most so many pictures in the report, half of them the worst (default: 24)",
    )


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
        "--compile",
        action="store_true",
        help="compile the networks; the first picture of each size takes minutes, the next are faster",
    )
    _add_device(add)
    add("--allow-download", action="store_true", help="let a hub id given as --base be downloaded")
    add("--revision", metavar="REV", help="commit or branch of a hub id")


def _add_device(add: Callable[..., object]) -> None:
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="default: fp16 on an accelerator, fp32 on the CPU (bf16 is twice as fast on one that has it)",
    )
    add("--device", **_DEVICE)


def _add_tagger(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tagger").add_argument
    add(
        "--dape",
        metavar="FILE",
        help="tiny (the embedded tagger), a tagger written by osediff convert (.safetensors), or DAPE.pth beside --ram",
    )
    add("--ram", metavar="FILE", help="ram_swin_large_14m.pth; without --dape, RAM alone")
    add("--exclude-tags", type=_names, default=(), metavar="A,B", help="tags that are never used")
    add("--tag-offset", type=_number, default=0.0, metavar="X", help="added to every threshold (default: 0)")
    add(
        "--official-prompt",
        action="store_true",
        help='as the official test code: "a, b, TEXT,", without TEXT "a, b, ,"',
    )


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("restoration").add_argument
    add("--prompt", default="", metavar="TEXT", help="what the pictures show, behind the tags")
    add(
        "--fidelity",
        type=_fidelity,
        default=0.0,
        metavar="F",
        help="-1: more detail; 0: as trained; 1: nothing but the input (default: 0)",
    )
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
        help="tile side in latents, at most; less where memory is short, 0 for no tiles (default: 96)",
    )
    add(
        "--overlap",
        type=_natural,
        metavar="N",
        help="overlap of tiles in latents (default: a third of --tile)",
    )
    add("--tile-grid", choices=TILE_GRIDS, default="official", help="how tiles are laid (default: official)")
    add(
        "--vae-tile",
        type=_vae_tile,
        metavar="N",
        help="side of the VAE's tiles in pixels, 0 for none (default: as memory allows; their size changes nothing)",
    )
    add(
        "--vae-memory",
        type=_gigabytes,
        metavar="GB",
        help="what the VAE may take besides its weights (default: 60%% of what is free)",
    )
    add(
        "--vae-attention",
        choices=VAE_ATTENTIONS,
        default="auto",
        help="exact, pooled (faster, nearly the same), or auto: exact unless that takes very long (default: auto)",
    )
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


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


def _fidelity(text: str) -> float:
    value = _number(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between -1 and 1")
    return value


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _vae_tile(text: str) -> int | None:
    return None if text == "auto" else _natural(text)


def _gigabytes(text: str) -> int:
    """Bytes."""
    return int(_scale(text) * 10**9)


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
