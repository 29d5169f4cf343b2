"""`osediff upscale`: pictures are restored one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .. import color
from ..choices import VAE_ATTENTIONS
from ..errors import OptionError
from ..tiles.grid import GRIDS
from .jobs import Job, check_outputs, make_plan
from .options import add_dtype_and_device, add_pictures, add_tagger, between, natural, number, positive
from .outcome import Outcome
from .results import (
    Result,
    ends_early,
    failed,
    interrupt_waits,
    may_fail,
    progress_bar,
    skip_existing,
    summary,
)

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from ..dape import Tagger
    from ..generator import OneStepGenerator
    from ..pipeline import RestoreOptions

logger = logging.getLogger(__name__)

HELP = "restore pictures"

_SLIDERS = {  # of methods that have such
    "pixel": "PiSA-SR: how much of the degradation to remove; 0: none, above 1: over-smooth",
    "semantic": "PiSA-SR: how much detail to add; 0: none, above 1: more than trained for",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add_pictures(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale", type=positive, default=4.0, metavar="X", help="output / input size (default: 4)"
    )
    size.add_argument("--size", type=_size, metavar="WxH", help="output size in pixels instead of --scale")
    _add_model(parser)
    _add_restoration(parser)
    add_tagger(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add(
        "--base",
        default="tiny",
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
        help="a light decoder instead of the base's own (AdcSR's, VOSR's, TAESD's): faster, less fine",
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
    add_dtype_and_device(add)
    add("--allow-download", action="store_true", help="let a hub id given as --base be downloaded")
    add("--revision", metavar="REV", help="commit or branch of a hub id")


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("restoration").add_argument
    add("--prompt", default="", metavar="TEXT", help="what the pictures show, behind the tags")
    add(
        "--fidelity",
        type=between(-1, 1),
        default=0.0,
        metavar="F",
        help="-1: more detail; 0: as trained; 1: nothing but the input (default: 0)",
    )
    for slider, meaning in _SLIDERS.items():
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
        type=natural,
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


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        size = (natural(width), natural(height))
    except argparse.ArgumentTypeError:
        size = (0, 0)
    if 0 in size:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, for example 1920x1080")
    return size


def _strength(text: str) -> float | tuple[float, float]:
    parts = [number(part) for part in text.split(",")]
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not one number, or two as UNET,VAE")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _vae_tile(text: str) -> int | None:
    return None if text == "auto" else natural(text)


def _gigabytes(text: str) -> int:
    """Bytes."""
    return int(positive(text) * 10**9)


@dataclass
class UpscaleResult(Result):
    """prompt: what the restoration was told; with a tagger, tags and words."""

    prompt: str | None = None


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    _check(args)
    plan = make_plan(
        [Path(p) for p in args.inputs], Path(args.output), recursive=args.recursive, file_format=args.format
    )
    results: list[Result] = [
        failed(UpscaleResult(str(path), None), message) for path, message in plan.unreadable
    ]
    jobs = skip_existing(plan.jobs, results, UpscaleResult) if args.skip_existing else plan.jobs
    check_outputs(jobs)
    run = _Run(args)
    interrupted = ends_early(lambda: run.restore_all(jobs, results))
    options = {"base": args.base, "weights": args.weights, "fidelity": args.fidelity}
    return summary("upscale", "restored", results, plan.total, interrupted, options)


def _check(args: argparse.Namespace) -> None:
    """Refuse at once, before torch is imported. Raises OptionError."""
    if args.tile and args.overlap is not None and args.overlap >= args.tile:
        raise OptionError(f"--overlap {args.overlap} must be smaller than --tile {args.tile}.")
    if not (args.dape or args.ram) and (args.exclude_tags or args.tag_offset or args.official_prompt):
        raise OptionError(
            "--exclude-tags, --tag-offset and --official-prompt are for a tagger; give one by --dape or --ram."
        )


class _Run:
    """The tagger and the generator, loaded for the first picture that can be read, and the options for all."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    @cached_property
    def tagger(self) -> Tagger | None:
        args = self.args
        if not (args.dape or args.ram):
            return None
        from ..dape.choice import open_tagger

        return open_tagger(args.dape, args.ram, dtype=args.dtype, device=args.device)

    @cached_property
    def generator(self) -> OneStepGenerator:
        from ..backends.speed import Speed
        from ..generator import OneStepGenerator

        args = self.args
        return OneStepGenerator.load(
            args.base,
            args.weights,
            dtype=args.dtype,
            device=args.device,
            strength=args.strength,
            fidelity=args.fidelity,
            sliders={name: value for name in _SLIDERS if (value := getattr(args, name)) is not None},
            method=args.method,
            decoder=args.decoder,
            keep_base=False,  # the strength stays during a run: no need for the base's values
            allow_download=args.allow_download,
            revision=args.revision,
            speed=Speed(compile=args.compile),
        )

    def restore_all(self, jobs: list[Job], results: list[Result]) -> None:
        """Appends one result per job when it begins; its status says how far it came."""
        with progress_bar(jobs, "restoring") as bar:
            for job in bar:
                result = UpscaleResult(str(job.source), str(job.output))
                results.append(result)
                self._restore(job, result, bar)

    def _restore(self, job: Job, result: UpscaleResult, bar: tqdm) -> None:
        from ..images import check_format, read_image, write_image
        from ..pipeline import restore_picture

        start = time.perf_counter()
        with may_fail(result, "restored", self.args.debug):
            picture = read_image(job.source)
            options = self._options()
            result.input_size, target = list(picture.size), options.target_for(picture)
            file_format = check_format(job.output, target, picture.alpha is not None)
            result.notes = list(picture.notes)
            if picture.bits == 16 and file_format in ("JPEG", "WEBP"):
                result.notes.append(f"its 16 bits per channel become 8, as {file_format} has no more")
        if result.error:
            return
        for note in result.notes:
            logger.warning("%s: %s", job.source, note)
        # outside of the blocks: without a model no picture can be restored
        tagger, generator = self.tagger, self.generator
        options = replace(options, color_fix=self.args.color_fix or generator.method.color_fix)
        with may_fail(result, "restored", self.args.debug):
            result.prompt = options.prompt
            restored = restore_picture(
                generator,
                picture,
                options,
                lambda done, total: bar.set_postfix_str(f"tile {done}/{total}"),
                None if tagger is None else lambda lq: self._prompt(tagger, lq, result),
            )
            with interrupt_waits():
                write_image(job.output, restored)
                result.status, result.output_size = "restored", list(restored.size)
                result.seconds = round(time.perf_counter() - start, 3)
            logger.info("%s -> %s (%dx%d, %.1f s)", job.source, job.output, *restored.size, result.seconds)

    def _options(self) -> RestoreOptions:
        from ..pipeline import RestoreOptions
        from ..tiles.vae import VAETiling

        args = self.args
        return RestoreOptions(
            scale=args.scale,
            size=args.size,
            prompt=args.prompt,
            color_weight=args.color_weight,
            tile=args.tile,
            overlap=args.overlap,
            tile_grid=args.tile_grid,
            sample_posterior=args.sample_posterior,
            seed=args.seed,
            vae=VAETiling(args.vae_tile, args.vae_memory, args.vae_attention),
        )

    def _prompt(self, tagger: Tagger, lq: Tensor, result: UpscaleResult) -> str:
        from ..dape import fitting_prompt, prompt_of

        args = self.args
        (tags,) = tagger.tag(lq, threshold_offset=args.tag_offset, exclude=args.exclude_tags)
        if args.official_prompt:
            result.prompt = prompt_of(tags, args.prompt, official=True)
        else:
            result.prompt = fitting_prompt(tags, args.prompt, self.generator.text.fits)
        logger.info("%s: prompt: %s", result.input, result.prompt)
        return result.prompt
