"""Options of `osediff upscale`, their values, and what makes no sense beside each other."""

from __future__ import annotations

import argparse
import logging
import re
from dataclasses import fields
from typing import TYPE_CHECKING

from .. import color
from ..batch.restorer import Settings
from ..choices import LEAST_VAE_MEMORY, LEAST_VAE_TILE, TINY, VAE_ATTENTIONS
from ..errors import OptionError
from ..printable import quoted
from ..tiles.grid import GRIDS
from .many import add_many
from .options import (
    add_dtype_and_device,
    add_pictures,
    add_tagger,
    between,
    check_files,
    check_tags,
    natural,
    number,
    positive,
    without_effect,
)

if TYPE_CHECKING:
    from ..pipeline import RestoreOptions

logger = logging.getLogger(__name__)

_MOST_STRENGTH = 100.0
_MOST_GIGABYTES = 1e6
_LEAST_TILE = 8  # latents: the UNet halves them three times
_MOST_OVERLAP = 7 / 8  # of a tile

SLIDERS = {  # of methods that have such
    "pixel": "PiSA-SR: how much of the degradation to remove; 0: none, above 1: over-smooth",
    "semantic": "PiSA-SR: how much detail to add; 0: none, above 1: more than trained for",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_pictures(parser)
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--scale", type=positive, default=4.0, metavar="X", help="output / input size (default: 4)"
    )
    target.add_argument("--size", type=size, metavar="WxH", help="output size in pixels instead of --scale")
    _add_model(parser)
    _add_restoration(parser)
    add_tagger(parser)
    add_many(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--base",
        default=TINY,
        metavar="BASE",
        help="tiny, a diffusers folder, an SD checkpoint, or a hub id",
    )
    add(
        "--weights",
        metavar="FILE",
        help="weights of a one-step method, a file or folder (default: the base's own)",
    )
    add(
        "--method",
        metavar="NAME",
        help="the method of weights that do not say it themselves, for example hypir",
    )
    add(
        "--decoder",
        metavar="FILE",
        help="AdcSR's second file; or a light decoder instead of the base's own (AdcSR's, VOSR's, TAESD's): "
        "faster, less fine",
    )
    add(
        "--strength",
        type=_strength,
        default=1.0,
        metavar="S",
        help="of the weights; S or UNET,VAE (default: 1)",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the networks; the first picture of each size takes minutes, the next are faster",
    )
    add(
        "--cache",
        metavar="FOLDER",
        help="keep the base with OSEDiff's weights merged into it there, so that the next start takes seconds",
    )
    add_dtype_and_device(add, several=True)
    add("--allow-download", action="store_true", help="let a hub id given as --base be downloaded")
    add("--revision", metavar="REV", help="commit or branch of a hub id")


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("restoration").add_argument
    add("--prompt", type=str, default="", metavar="TEXT", help="what the pictures show, behind the tags")
    add(
        "--fidelity",
        type=between(-1, 1),
        default=0.0,
        metavar="F",
        help="-1: more detail; 0: as trained; 1: nothing but the input (default: 0)",
    )
    for slider, meaning in SLIDERS.items():
        add(f"--{slider}", type=number, metavar="X", help=f"{meaning} (default: 1)")
    add(
        "--color-fix",
        choices=color.METHODS,
        help="give back the input's colours (default: the method's; OSEDiff's is adain)",
    )
    add(
        "--color-weight",
        type=between(0, 1),
        default=1.0,
        metavar="W",
        help="how much of the colour fix, 0 to 1 (default: 1)",
    )
    add(
        "--tile",
        type=tile,
        default=96,
        metavar="N",
        help="tile side in latents, at most; less where memory is short, 0 for no tiles (default: 96)",
    )
    add(
        "--overlap",
        type=natural,
        metavar="N",
        help="overlap of tiles in latents (default: a third of --tile)",
    )
    add("--tile-grid", choices=GRIDS, default="official", help="how tiles are laid (default: official)")
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
    add("--seed", type=natural, default=0, metavar="N", help="of --sample-posterior (default: 0)")


def size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        size = (natural(width), natural(height))
    except argparse.ArgumentTypeError:
        size = (0, 0)
    if 0 in size:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not WIDTHxHEIGHT in pixels, for example 1920x1080"
        )
    return size


def _strength(text: str) -> float | tuple[float, float]:
    parts = [number(part) for part in text.split(",")]
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not one number, or two as UNET,VAE")
    if max(map(abs, parts)) > _MOST_STRENGTH:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is beyond {_MOST_STRENGTH:g}")
    if re.fullmatch(r"\d+,\d+", text) and parts[1] not in (0, 1):
        unet, vae = text.split(",")
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is {unet} for the UNet and {vae} for the VAE; write {unet}.{vae} if it is one number, "
            f"{unet}.0,{vae}.0 if it is two"
        )
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _vae_tile(text: str) -> int | None:
    return None if text == "auto" else natural(text)


def _gigabytes(text: str) -> int:
    """Bytes."""
    value = positive(text)
    if value > _MOST_GIGABYTES:
        raise argparse.ArgumentTypeError(f"{quoted(text)} GB is more than any machine has; give less")
    return max(1, int(value * 10**9))


def tile(text: str) -> int:
    value = natural(text)
    if 0 < value < _LEAST_TILE:
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is too small; give {_LEAST_TILE} or more, or 0 for none"
        )
    return value


def check(args: argparse.Namespace) -> None:
    """Refuse at once, before torch is imported; what has no effect is said. Raises OptionError."""
    if args.tile and args.overlap is not None and args.overlap > args.tile * _MOST_OVERLAP:
        raise OptionError(
            f"--overlap {args.overlap} must be at most 7/8 of --tile {args.tile}, or tiles hardly move on."
        )
    if not (args.dape or args.ram) and (args.exclude_tags or args.tag_offset or args.official_prompt):
        raise OptionError(
            "--exclude-tags, --tag-offset and --official-prompt are for a tagger; give one by --dape or --ram."
        )
    if args.revision is not None:
        from ..backends.find_base import check_revision

        check_revision(args.base)
    check_files(args.base, args.weights, args.decoder, args.dape, args.ram)
    check_tags(args)
    without_effect(args.seed != 0 and not args.sample_posterior, "--seed", "--sample-posterior is not given")
    without_effect(
        args.color_weight != 1 and args.color_fix == "none", "--color-weight", "there is no colour fix"
    )
    without_effect(args.overlap is not None and not args.tile, "--overlap", "--tile 0 is no tiling")
    without_effect(args.tile_grid != "official" and not args.tile, "--tile-grid", "--tile 0 is no tiling")
    pooled = args.vae_attention == "pooled"
    without_effect(pooled and args.vae_tile == 0, "--vae-attention", "attention is exact with --vae-tile 0")
    if args.vae_memory is not None and args.vae_memory < LEAST_VAE_MEMORY:
        args.vae_memory = LEAST_VAE_MEMORY
        logger.warning("--vae-memory is raised to %.3f GB, as less takes very long", LEAST_VAE_MEMORY / 1e9)
    if args.vae_tile and args.vae_tile < LEAST_VAE_TILE:
        args.vae_tile = LEAST_VAE_TILE
        logger.warning("--vae-tile is raised to %d, as smaller ones take very long", LEAST_VAE_TILE)
    if isinstance(args.strength, tuple):
        logger.info("strength: %g for the UNet, %g for the VAE", *args.strength)


def settings_of(args: argparse.Namespace) -> Settings:
    """Of options of `osediff upscale`."""
    own = {one.name: getattr(args, one.name) for one in fields(Settings) if hasattr(args, one.name)}
    sliders = {name: value for name in SLIDERS if (value := getattr(args, name)) is not None}
    return Settings(_options(args), **own, sliders=sliders)


def _options(args: argparse.Namespace) -> RestoreOptions:
    from ..pipeline import RestoreOptions
    from ..tiles.vae import VAETiling

    given = {one.name: getattr(args, one.name) for one in fields(RestoreOptions) if hasattr(args, one.name)}
    vae = VAETiling(args.vae_tile, args.vae_memory, args.vae_attention)
    return RestoreOptions(**{**given, "color_fix": RestoreOptions.color_fix, "vae": vae})
