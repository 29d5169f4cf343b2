"""Many pictures: who does them, this process, one for each device, or Ray's actors; the same records come of it."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..batch.job import Job, Recipe, Work
from ..batch.places import STREAM, place_of
from ..batch.record import MOST_ATTEMPTS, Result
from ..batch.shard import Shard
from ..batch.work import work_on
from ..errors import OptionError
from ..printable import quoted
from .devices import Tell, devices_of, work_side_by_side
from .jobs import Plan, make_plan
from .options import check_pictures, number, whole, without_effect
from .progress import Progress
from .results import Results, skip_existing, unreadable_results

MANIFEST = "_manifest"  # folder of the engine's report, in that of the results


def add_many(parser: argparse.ArgumentParser, shard: bool = True) -> None:
    """Options of runs beside each other. shard: parts can be done apart."""
    add = parser.add_argument_group("many pictures").add_argument
    if shard:
        add(
            "--shard",
            type=_shard,
            metavar="I/N",
            help="only the I-th of N parts of the pictures, for N runs side by side (I from 1)",
        )
    add(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="ray: actors on this machine or a cluster, needs osediff[cluster] (default: plain)",
    )
    add("--address", metavar="HOST:PORT", help="of a Ray cluster, or auto (default: this machine alone)")
    add("--actors", type=actors, metavar="MIN:MAX", help="models at work (default: one for each GPU, or 1)")
    add(
        "--gpus-per-actor",
        type=_gpus,
        metavar="X",
        help="0.5: two share one; 0: none (default: 1 where there are GPUs)",
    )
    add(
        "--manifest",
        metavar="FOLDER",
        help=f"write a report, parquet, for osediff manifest (default with ray: {MANIFEST} in OUT)",
    )
    add(
        "--attempts",
        type=whole(1, 100),
        default=MOST_ATTEMPTS,
        metavar="N",
        help=f"at a picture that ends its worker (default: {MOST_ATTEMPTS})",
    )


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(text)} {error}") from None


def actors(text: str) -> tuple[int, int]:
    """The value of `--actors`."""
    parts = [whole(1, 100_000)(part) for part in text.split(":")]
    if len(parts) > 2 or parts[0] > parts[-1]:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not N or MIN:MAX, for example 1:8")
    return parts[0], parts[-1]


def _gpus(text: str) -> float:
    value = number(text)
    if value < 0 or (value > 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no whole number, and no part of one GPU")
    return value


def check_many(args: argparse.Namespace, jobs: Sequence[Job], output: str | None = None) -> None:
    """Refuses and warns of options that make no sense beside each other. output: of the command, for the manifest.

    Raises OptionError.
    """
    streams = STREAM in {place for job in jobs for place in (job.source, job.output)}
    if args.engine != "ray":
        for name in ("address", "actors", "gpus_per_actor"):
            option = f"--{name.replace('_', '-')}"
            without_effect(getattr(args, name) is not None, option, "it is for --engine ray")
        devices = devices_of(
            _device(args)
        )  # here, since an unknown one is refused before anything is written
        if streams and len(devices) > 1:
            raise OptionError("Standard input and output are for one picture; give one --device, or files.")
        return
    if streams:
        raise OptionError("--engine ray has no standard input and output; give files or folders.")
    if _device(args) not in ("auto", "cpu", "cuda"):
        raise OptionError(
            "With --engine ray, Ray hands out devices; give --device cpu or none, and --actors."
        )
    if getattr(args, "dry_run", False):
        raise OptionError("--dry-run is for one machine; leave out --engine ray.")
    if args.manifest is None and output is not None:
        one_file = any(str(job.output) == str(place_of(output)) for job in jobs)
        top = place_of(output)
        args.manifest = str((top.parent if one_file else top) / MANIFEST)


def _device(args: argparse.Namespace) -> str:
    return getattr(args, "device", "cpu")


def plan_of(args: argparse.Namespace) -> Plan:
    """The jobs of a command that writes pictures, whose options are checked. Raises OptionError."""
    plan = make_plan(
        args.inputs,
        args.output,
        recursive=args.recursive,
        file_format=args.format,
        column=args.column,
        name=args.name,
        shard=args.shard,
    )
    check_pictures(args, plan.jobs)
    check_many(args, plan.jobs, args.output)
    return plan


def begin(args: argparse.Namespace, plan: Plan, kind: type[Result]) -> tuple[Results, list[Job]]:
    """The results with what cannot be read or is there already, and the jobs that are left."""
    results = Results(keeps_results(args))
    unreadable_results(plan.unreadable, results, kind)
    resume = args.skip_existing or args.engine == "ray"
    return results, skip_existing(plan.jobs, results, kind) if resume else plan.jobs


def keeps_results(args: argparse.Namespace) -> bool:
    """Whether all records are wanted at the end: those of Ray's millions only as JSON."""
    return args.engine != "ray" or args.json or args.json_lines


def do_all(
    args: argparse.Namespace,
    recipe: Recipe,
    jobs: Sequence[Job],
    results: Results,
    doing: str,
    work: Work | None = None,
) -> None:
    """Has the jobs done as the options say; adds their records. work: instead of the recipe's, in this process.

    Raises OSEDiffError for what keeps all from being done, RunEnds, KeyboardInterrupt.
    """
    with ExitStack() as stack:
        if args.engine == "ray" and not args.debug:
            from ..cluster.session import without_its_words

            stack.enter_context(without_its_words())
        progress = stack.enter_context(Progress(args, jobs, doing))
        tell = _teller(args, recipe, results, progress, stack)

        def tell_next(index: int, came: list[Result], node: str, attempt: int) -> None:
            tell(index, came, node, attempt)
            progress.advance()

        dry_run = getattr(args, "dry_run", False)
        devices = devices_of(recipe.device)
        if args.engine == "ray":
            from ..cluster.run import Cluster, run_on_ray

            cluster = Cluster(args.address, args.actors, args.gpus_per_actor, args.attempts)
            run_on_ray(cluster, recipe, jobs, tell_next)
        elif len(devices) > 1 and not dry_run:
            work_side_by_side(devices, args, recipe, jobs, progress, tell_next)
        else:
            work = work or replace(recipe, device=devices[0]).open()  # type: ignore[type-var]
            _one_by_one(args, work, progress, dry_run, tell)


def _one_by_one(
    args: argparse.Namespace, work: Work, progress: Progress[Job], dry_run: bool, tell: Tell
) -> None:
    def one(task: Any, result: Result) -> None:  # noqa: ANN401 - a picture's task
        progress.begin(result.input)
        work.work(task, result, progress.step, dry_run=dry_run, debug=args.debug)

    for index, job in enumerate(progress):
        came: list[Result] = []
        try:
            work_on(job, work, one, came, dry_run)
        finally:
            tell(index, came, platform.node(), 1)


def _teller(
    args: argparse.Namespace, recipe: Recipe, results: Results, progress: Progress[Job], stack: ExitStack
) -> Tell:
    """What takes the records of a job: the run's, the progress, and the manifest where there is one."""
    manifest = None
    if args.manifest is not None and not getattr(args, "dry_run", False):
        from ..cluster.manifest import Manifest

        name = getattr(args, "name", None)
        manifest = Manifest(place_of(args.manifest))
        manifest.begin(recipe, {"format": getattr(args, "format", None), "name": name and name.text})
        stack.callback(manifest.flush)

    def tell(index: int, came: list[Result], node: str, attempt: int) -> None:
        results.add(came)
        for result in came:
            if result.status == "begun":
                continue
            progress.at(index).end(result)
            if manifest is not None:
                manifest.add(result, node, attempt)

    return tell
