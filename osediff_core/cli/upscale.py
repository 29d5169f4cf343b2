"""`osediff upscale`: pictures are restored one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..batch.record import Result
from ..batch.restorer import Restorer, Settings, Task, UpscaleResult
from ..choices import TINY
from ..errors import CheckpointError, OptionError
from .devices import devices_of, restore_on
from .jobs import STREAM, Job, check_outputs, make_plan, name_of, read_bytes, write_bytes, written_as
from .options import check_pictures
from .outcome import Outcome
from .progress import Progress
from .results import ends_early, planned, skip_existing, summary, unreadable_results
from .upscale_options import add_options, check, check_engine, settings_of

__all__ = ["EXAMPLES", "HELP", "add_options", "run"]

HELP = "restore pictures"
EXAMPLES = """osediff upscale photo.jpg -o restored.png
osediff upscale holiday/ -o restored/ --recursive --skip-existing
osediff upscale scan.tif -o out/ --size 3840x2160 --base path/to/sd21-base --weights osediff.pkl
cat photo.jpg | osediff upscale - -o - > restored.png
"""


def run(args: argparse.Namespace) -> Outcome:
    """Carries out the parsed command line. Raises OSEDiffError for what concerns the whole run."""
    check(args)
    plan = make_plan(
        args.inputs,
        args.output,
        recursive=args.recursive,
        file_format=args.format,
        name=args.name,
        shard=args.shard,
    )
    check_pictures(args, plan.jobs)
    devices = _devices(args, plan.jobs)
    check_engine(args, plan.jobs)
    results = unreadable_results(plan.unreadable, UpscaleResult)
    resume = args.skip_existing or args.engine == "ray"
    jobs = skip_existing(plan.jobs, results, UpscaleResult) if resume else plan.jobs
    if args.dry_run:
        _check_model(args)
    else:
        check_outputs(jobs)
    interrupted = ends_early(lambda: _restore_all(args, devices, jobs, results))
    options = {"base": args.base, "weights": args.weights, "fidelity": args.fidelity}
    outcome = summary("upscale", "restored", results, plan.total, interrupted, options, plan.left_out)
    return planned(outcome, results) if args.dry_run else outcome


def _check_model(args: argparse.Namespace) -> None:
    """Raises BaseModelError, CheckpointError for what is not there; nothing is read or fetched."""
    from ..backends.find_base import find_base

    if not args.allow_download:
        find_base(args.base, revision=args.revision)
    for name in (args.weights, args.decoder, args.dape, args.ram):
        if name not in (None, TINY) and not os.path.exists(name):
            raise CheckpointError(f"{name} does not exist; check the path.")


def _restore_all(
    args: argparse.Namespace, devices: Sequence[str], jobs: Sequence[Job], results: list[Result]
) -> None:
    """Appends one result per job when it begins; its status says how far it came."""
    settings = settings_of(args)
    pairs = [(_task(job, args.format), UpscaleResult(str(job.source), str(job.output))) for job in jobs]
    with _streams(args), Progress(args, pairs, "restoring") as progress:
        if args.engine == "ray":
            _restore_on_ray(args, settings, [result for _, result in pairs], results, progress)
            return
        if len(devices) > 1:
            for result in restore_on(devices, args, settings, pairs, progress):
                results.append(result)
            return
        restorer = Restorer(replace(settings, device=devices[0]))
        for task, result in progress:
            results.append(result)
            progress.begin(result.input)
            restorer.work(task, result, progress.step, dry_run=args.dry_run, debug=args.debug)
            progress.end(result)


def _streams(args: argparse.Namespace) -> AbstractContextManager[None]:
    if args.engine != "ray" or args.debug:
        return nullcontext()
    from ..cluster.session import without_its_words

    return without_its_words()


def _restore_on_ray(
    args: argparse.Namespace,
    settings: Settings,
    begun: Sequence[UpscaleResult],
    results: list[Result],
    progress: Progress[Any],
) -> None:
    from ..cluster.manifest import Manifest
    from ..cluster.run import Cluster, restore_on_ray

    results += begun

    def tell(index: int, result: UpscaleResult) -> None:
        progress.at(index).end(result)
        progress.advance()

    manifest = Manifest(Path(args.manifest))
    manifest.begin(settings, {"format": args.format, "name": args.name and args.name.text})
    cluster = Cluster(args.address, args.actors, args.gpus_per_actor, args.attempts)
    restore_on_ray(cluster, settings, begun, manifest, tell)


def _devices(args: argparse.Namespace, jobs: Sequence[Job]) -> list[str]:
    """Those that work side by side. Raises OptionError."""
    found = devices_of(args.device)
    if len(found) > 1 and STREAM in {path for job in jobs for path in (job.source, job.output)}:
        raise OptionError("Standard input and output are for one picture; give one --device, or files.")
    return found[:1] if args.dry_run else found


def _task(job: Job, file_format: str | None) -> Task:
    output = written_as(job, file_format)
    return Task(name_of(job), output, partial(read_bytes, job), partial(write_bytes, job))
