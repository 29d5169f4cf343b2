"""`osediff upscale`: restore pictures one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, OSEDiffError, first_line
from .jobs import Job, check_outputs, make_plan
from .outcome import DONE, FAILED, INTERRUPTED, Outcome

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..generator import OneStepGenerator
    from ..pipeline import RestoreOptions

logger = logging.getLogger(__name__)


@dataclass
class Result:
    """What became of one input; the JSON record.

    status: restored, skipped or failed; begun while it is at work. Sizes are [width, height].
    """

    input: str
    output: str | None
    status: str = "begun"
    error: str | None = None
    seconds: float | None = None
    input_size: list[int] | None = None
    output_size: list[int] | None = None
    notes: list[str] | None = None


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    _check(args)
    plan = make_plan(
        [Path(p) for p in args.inputs], Path(args.output), recursive=args.recursive, file_format=args.format
    )
    results = [_failed(Result(str(path), None), message) for path, message in plan.unreadable]
    jobs = plan.jobs
    if args.skip_existing:
        kept = [job for job in jobs if not os.path.isfile(job.output)]
        results += [Result(str(j.source), str(j.output), "skipped") for j in jobs if os.path.isfile(j.output)]
        jobs = kept
    check_outputs(jobs)
    run = _Run(args)
    try:
        run.restore_all(jobs, results)
    except KeyboardInterrupt:
        return _summary(args, results, len(plan.jobs) + len(plan.unreadable), interrupted=True)
    return _summary(args, results, len(results))


def _check(args: argparse.Namespace) -> None:
    """What can be refused without torch is refused at once."""
    if args.tile and args.overlap is not None and args.overlap >= args.tile:
        raise OptionError(f"--overlap {args.overlap} must be smaller than --tile {args.tile}.")


class _Run:
    """The generator, loaded for the first picture that can be read, and the options for all pictures."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.generator: OneStepGenerator | None = None

    def restore_all(self, jobs: list[Job], results: list[Result]) -> None:
        """Appends one result per job when it begins; its status says how far it came."""
        from tqdm import tqdm

        # disable=None: no bar where stderr is a file or a pipe
        with tqdm(jobs, desc="restoring", unit="picture", disable=None) as bar:
            for job in bar:
                results.append(Result(str(job.source), str(job.output)))
                self._restore(job, results[-1], bar)

    def _restore(self, job: Job, result: Result, bar: tqdm) -> None:
        from ..image_io import check_format, read_image, write_image
        from ..pipeline import restore_picture

        start = time.perf_counter()
        with _may_fail(result, self.args.debug):
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
        generator = self._load()  # outside of the blocks: without a model no picture can be restored
        with _may_fail(result, self.args.debug):
            restored = restore_picture(
                generator, picture, options, lambda done, total: bar.set_postfix_str(f"tile {done}/{total}")
            )
            with _interrupt_waits():
                write_image(job.output, restored)
                result.status, result.output_size = "restored", list(restored.size)
                result.seconds = round(time.perf_counter() - start, 3)
            logger.info("%s -> %s (%dx%d, %.1f s)", job.source, job.output, *restored.size, result.seconds)

    def _options(self) -> RestoreOptions:
        from ..pipeline import RestoreOptions

        args = self.args
        return RestoreOptions(
            scale=args.scale,
            size=args.size,
            prompt=args.prompt,
            color_fix=args.color_fix,
            color_weight=args.color_weight,
            tile=args.tile,
            overlap=args.overlap,
            tile_grid=args.tile_grid,
            sample_posterior=args.sample_posterior,
            seed=args.seed,
        )

    def _load(self) -> OneStepGenerator:
        if self.generator is None:
            from ..generator import OneStepGenerator

            args = self.args
            self.generator = OneStepGenerator.load(
                args.base,
                args.weights,
                dtype=args.dtype,
                device=args.device,
                strength=args.strength,
                keep_base=False,  # the strength stays during a run: no need for the base's values
                allow_download=args.allow_download,
                revision=args.revision,
            )
        return self.generator


@contextmanager
def _interrupt_waits() -> Iterator[None]:
    """Ctrl-C inside the block takes effect at its end, so that a file that was written is also reported."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt


@contextmanager
def _may_fail(result: Result, debug: bool) -> Iterator[None]:
    """Turns an error inside the block into a failed result, so that the next picture has its turn."""
    try:
        yield
    except OSEDiffError as error:
        _failed(result, str(error), debug)
    except Exception as error:  # whatever one picture triggers must not cost the others
        text = f"{type(error).__name__}: {first_line(error)}"
        _failed(result, f"{result.input} could not be restored ({text}); add --debug for the details.", debug)


def _failed(result: Result, message: str, debug: bool = False) -> Result:
    logger.error("%s", message, exc_info=debug)
    result.status, result.error = "failed", message
    return result


def _summary(
    args: argparse.Namespace, results: list[Result], total: int, interrupted: bool = False
) -> Outcome:
    done = {s: [r for r in results if r.status == s] for s in ("restored", "skipped", "failed")}
    counts = {name: len(found) for name, found in done.items()}
    left = total - sum(counts.values())
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if interrupted:
        text += f", {left} not done: interrupted, what was finished is kept"
    text = "\n".join([text, *(f"  failed: {result.input}" for result in done["failed"])])
    data: dict[str, Any] = {
        "command": "upscale",
        **counts,
        "not_done": left,
        "interrupted": interrupted,
        "base": args.base,
        "weights": args.weights,
        "results": [asdict(result) for result in results if result.status in done],
    }
    status = INTERRUPTED if interrupted else FAILED if counts["failed"] else DONE
    return Outcome(status, text, data)
