"""The work of `osediff compare`: results of one method after the other, and then their scores."""

from __future__ import annotations

import argparse
import gc
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..batch.job import FileJob, task_of, write_output
from ..batch.record import RunEnds, may_fail
from ..batch.restorer import Restorer, UpscaleResult
from ..choices import TINY
from ..errors import ImageError, OSEDiffError, amount, some_of
from ..interrupts import held, pass_on
from .contenders import FOLDER, Contender, Record
from .jobs import check_outputs
from .progress import Progress

if TYPE_CHECKING:
    import torch

    from ..evaluate.comparison import Comparison, Entry
    from ..evaluate.folders import PicturePair
    from ..evaluate.metric import Metric

logger = logging.getLogger(__name__)

RECORD = "run.json"


def restore_all(
    args: argparse.Namespace,
    named: Sequence[tuple[Contender, Entry, Sequence[FileJob]]],
    device: torch.device,
) -> None:
    """Makes, or finds, the results of each; raises KeyboardInterrupt, RunEnds."""
    if any(one.settings is not None for one, _, _ in named):
        from ..direct.load import load_model

        load_model(TINY, device=device)  # so that nobody's time and memory include what is imported for all
    for one, entry, jobs in named:
        _fill(args, one, entry, jobs, device)


def _fill(
    args: argparse.Namespace, one: Contender, entry: Entry, jobs: Sequence[FileJob], device: torch.device
) -> None:
    """Makes the results of one, or finds them. An error that ends it is its entry's, and costs the others nothing."""
    try:
        if one.kind == FOLDER:
            _find(one, entry, jobs)
            return
        check_outputs(jobs)
        record = Record.open(jobs[0].output.parent.parent / RECORD, one.settings)
        try:
            if one.settings is None:
                _enlarge(args, one, record, jobs)
            else:
                _restore(args, one, record, jobs, device)
        finally:
            entry.results = {job.output.stem: job.output for job in jobs if record.has(job)}
            own = record.seconds()
            entry.seconds = {name: own[name] for name in entry.results if name in own}
            entry.loading, entry.memory = record.facts.get("loading_seconds"), record.facts.get("peak_memory")
            entry.dtype, entry.title = record.facts.get("dtype"), record.facts.get("title", entry.title)
        missing = [job.output.stem for job in jobs if job.output.stem not in entry.results]
        if missing:
            entry.error = f"{some_of(missing)} could not be restored."
    except RunEnds:
        raise
    except OSEDiffError as error:
        pass_on(error)
        logger.error("%s: %s", one.name, error)
        entry.error = str(error)


def _find(one: Contender, entry: Entry, jobs: Sequence[FileJob]) -> None:
    from ..evaluate.folders import pictures_by_name

    found = pictures_by_name(Path(one.source or ""))
    names = [job.output.stem for job in jobs]
    entry.results = {name: found[name] for name in names if name in found}
    missing = [name for name in names if name not in found]
    if missing:
        have = "has" if len(missing) == 1 else "have"
        entry.error = f"{some_of(missing)} {have} no result of that name in {one.source}."
        logger.error("%s: %s", one.name, entry.error)


def _restore(
    args: argparse.Namespace, one: Contender, record: Record, jobs: Sequence[FileJob], device: torch.device
) -> None:
    from ..runtime.memory import release_memory
    from ..runtime.peak import PeakMemory

    left = [job for job in jobs if not record.has(job)]
    if len(left) < len(jobs):
        logger.info("%s: %s there already", one.name, amount(len(jobs) - len(left), "result"))
    if not left or one.settings is None:
        return
    restorer = Restorer(one.settings)
    peak = PeakMemory(device)
    try:
        with peak, Progress(args, left, one.name) as progress:
            start = time.perf_counter()
            restorer.load()
            record.facts |= _facts(restorer) | {"loading_seconds": round(time.perf_counter() - start, 3)}
            for job in progress:
                result = UpscaleResult(str(job.source), str(job.output))
                progress.begin(result.input)
                restorer.work(task_of(job), result, progress.step, debug=args.debug)
                progress.end(result)
                if result.error is None:
                    record.add(job, result.seconds)
    finally:
        record.facts["peak_memory"] = max(peak.bytes, record.facts.get("peak_memory") or 0)
        with held():
            record.save()
        del restorer
        gc.collect()
        release_memory(device)


def _facts(restorer: Restorer) -> dict[str, Any]:
    from ..generator import OneStepGenerator
    from ..runtime.device import short_name

    found = restorer.generator
    dtype = found.unet.dtype if isinstance(found, OneStepGenerator) else found.dtype
    return {"title": found.method.title, "dtype": short_name(dtype)}


def _enlarge(args: argparse.Namespace, one: Contender, record: Record, jobs: Sequence[FileJob]) -> None:
    """What everybody has: Pillow's bicubic."""
    import numpy as np

    from ..evaluate.evaluation import enlarged
    from ..geometry import target_size
    from ..images import Picture, encode_image, read_image

    for job in (job for job in jobs if not record.has(job)):
        start = time.perf_counter()
        result = UpscaleResult(str(job.source), str(job.output))
        with may_fail(result, "enlarged", args.debug):
            picture = read_image(job.source)
            target = target_size(*picture.size, scale=None if args.size else args.scale, size=args.size)
            pixels = enlarged(picture, target).astype(np.float32) / 255
            with held():
                write_output(job, encode_image(".png", Picture(pixels)))
                record.add(job, round(time.perf_counter() - start, 3))


def measure(
    args: argparse.Namespace,
    comparison: Comparison,
    pairs: dict[str, PicturePair],
    metrics: Sequence[Metric],
    device: torch.device,
    problems: list[str],
) -> None:
    """Scores over the pictures that all have: of others nothing could be compared."""
    from ..evaluate import evaluate
    from ..evaluate.measure import load_measures

    entries = [entry for entry in comparison.entries if entry.results]
    names = [name for name in pairs if all(name in entry.results for entry in entries)]
    sizes = {name: _one_size(name, entries, problems) for name in names}
    compared = {name: found for name, found in sizes.items() if found is not None}
    if not compared:
        raise ImageError(
            "No picture has a result of every method, so that nothing can be compared; see the messages above."
        )
    measures, skipped = load_measures(
        metrics, device, args.allow_download, args.truth is not None, len(compared)
    )
    scored = {}
    for entry in entries:
        mine = [replace(pairs[name], result=entry.results[name], lq=None) for name in compared]
        found = evaluate(
            mine,
            metrics,
            device,
            seed=args.seed,
            progress=lambda given, name=entry.name: _telling(args, name, given),
            loaded=(measures, skipped),
        )
        if found.interrupted:
            raise KeyboardInterrupt
        problems += [f"{entry.name}: {error}" for error in found.failed.values()]
        skipped |= found.skipped
        scored[entry.name] = found
    for entry in entries:
        entry.evaluation = scored[entry.name]
    comparison.skipped = skipped
    comparison.metrics = [metric for metric in measures if metric.name not in skipped]
    comparison.pictures = compared


def _telling(args: argparse.Namespace, name: str, pairs: Sequence[PicturePair]) -> Iterator[PicturePair]:
    with Progress(args, pairs, f"measuring {name}") as progress:
        for pair in progress:
            progress.begin(str(pair.result))
            yield pair


def _one_size(name: str, entries: Sequence[Entry], problems: list[str]) -> tuple[int, int] | None:
    """The size that all results of a picture have; None where they differ."""
    from ..images import read_image

    sizes: dict[tuple[int, int], str] = {}
    for entry in entries:
        try:
            sizes.setdefault(read_image(entry.results[name]).size, entry.name)
        except ImageError as error:
            problems.append(f"{entry.name}: {error}")
            logger.error("%s", problems[-1])
            return None
    if len(sizes) == 1:
        return next(iter(sizes))
    words = " and ".join(f"{width}x{height} of {owner}" for (width, height), owner in sizes.items())
    problems.append(f"{name} has results of several sizes, {words}; give --scale or --size that fits all.")
    logger.error("%s", problems[-1])
    return None
