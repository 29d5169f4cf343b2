"""`osediff upscale`: pictures are restored one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from .jobs import Job, check_outputs, make_plan, read_source, write_result, written_as
from .options import check_pictures
from .outcome import Outcome
from .progress import Progress
from .results import Result, ends_early, may_fail, planned, skip_existing, summary, unreadable_results
from .signals import held
from .upscale_options import SLIDERS, add_options, check

if TYPE_CHECKING:
    from torch import Tensor

    from ..dape import Tagger
    from ..generator import OneStepGenerator
    from ..pipeline import RestoreOptions

logger = logging.getLogger(__name__)

__all__ = ["EXAMPLES", "HELP", "add_options", "run"]

HELP = "restore pictures"
EXAMPLES = """osediff upscale photo.jpg -o restored.png
osediff upscale holiday/ -o restored/ --recursive --skip-existing
osediff upscale scan.tif -o out/ --size 3840x2160 --base path/to/sd21-base --weights osediff.pkl
cat photo.jpg | osediff upscale - -o - > restored.png
"""


@dataclass
class UpscaleResult(Result):
    """prompt: what the restoration was told; with a tagger, tags and words."""

    prompt: str | None = None


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    check(args)
    plan = make_plan(
        args.inputs, args.output, recursive=args.recursive, file_format=args.format, name=args.name
    )
    check_pictures(args, plan.jobs)
    results = unreadable_results(plan.unreadable, UpscaleResult)
    jobs = skip_existing(plan.jobs, results, UpscaleResult) if args.skip_existing else plan.jobs
    if not args.dry_run:
        check_outputs(jobs)
    run = _Run(args)
    interrupted = ends_early(lambda: run.restore_all(jobs, results))
    options = {"base": args.base, "weights": args.weights, "fidelity": args.fidelity}
    outcome = summary("upscale", "restored", results, plan.total, interrupted, options, plan.left_out)
    return planned(outcome, results) if args.dry_run else outcome


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
            sliders={name: value for name in SLIDERS if (value := getattr(args, name)) is not None},
            method=args.method,
            decoder=args.decoder,
            keep_base=False,  # the strength stays during a run: no need for the base's values
            allow_download=args.allow_download,
            revision=args.revision,
            speed=Speed(compile=args.compile),
        )

    def restore_all(self, jobs: list[Job], results: list[Result]) -> None:
        """Appends one result per job when it begins; its status says how far it came."""
        with Progress(self.args, jobs, "restoring") as progress:
            for job in progress:
                result = UpscaleResult(str(job.source), str(job.output))
                results.append(result)
                progress.begin(result.input)
                self._restore(job, result, progress)
                progress.end(result)

    def _restore(self, job: Job, result: UpscaleResult, progress: Progress) -> None:
        from ..images import check_format
        from ..pipeline import restore_picture

        args = self.args
        start = time.perf_counter()
        with may_fail(result, "restored", args.debug):
            picture = read_source(job)
            options = self._options()
            result.input_size, target = list(picture.size), options.target_for(picture)
            file_format = check_format(written_as(job, args.format), target, picture.alpha is not None)
            result.notes = list(picture.notes)
            if picture.bits == 16 and file_format in ("JPEG", "WEBP"):
                result.notes.append(f"its 16 bits per channel become 8, as {file_format} has no more")
            if args.dry_run:
                result.status, result.output_size = "planned", list(target)
        if result.error:
            return
        for note in result.notes:
            logger.warning("%s: %s", job.source, note)
        if args.dry_run:
            return
        # outside of the blocks: without a model no picture can be restored
        tagger, generator = self.tagger, self.generator
        options = replace(options, color_fix=args.color_fix or generator.method.color_fix)
        with may_fail(result, "restored", args.debug):
            result.prompt = options.prompt
            prompter = None if tagger is None else lambda lq: self._prompt(tagger, lq, result)
            restored = restore_picture(generator, picture, options, progress.step, prompter)
            with held():
                write_result(job, restored, args)
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
