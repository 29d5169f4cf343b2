"""The loop of a run, whatever is trained: steps, logs, validation, checkpoints, and how it stops and goes on.

    run = Run(config, ...)                       # processes, folder, checkpoint; then the parts, in any order
    loop(run, data, step, updaters=..., ...)

`step` takes its batches from an iterator and says figures; everything else is said by the arguments of `loop`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from osediff_core.cli.entry import run_main

from .checkpoints import WEIGHTS, Checkpoint
from .data import Data
from .errors import NonFiniteLossError
from .logs import RunLog
from .settings import Config, read_settings
from .signals import StopSignals
from .start import NOTHING, Kept, Run
from .updater import Updater

log = logging.getLogger("training")

Batch = TypeVar("Batch")
Figures = Mapping[str, float]


def loop(
    run: Run,
    data: Data[Batch],
    step: Callable[[Iterator[Batch]], Mapping[str, Tensor]],
    *,
    updaters: Mapping[str, Updater],
    kept: Mapping[str, Kept] = NOTHING,
    weights: Callable[[int], bytes],
    weights_name: str = WEIGHTS,
    export: Callable[[Path, int], None],
    validate: Callable[[int], Figures | None] = lambda _step: None,
    validate_every: int = 500,
    watched: str = "",
    shown: Sequence[str] = (),
) -> None:
    """Train from where the run stands to its last step. Raises OSEDiffError; what was saved stays.

    step: one step with as many batches as it wants; the figures to be logged. updaters: what it trains, by name.
    kept: what else changes while it trains, and a checkpoint must hold.
    weights: (step) -> what a checkpoint's file `weights_name` holds. export: writes into the run's folder what the run
    is for, at its end; on the main process alone, everything else on all.
    validate: (step) -> figures, None where there is nothing to validate on; `watched` is the one whose lowest value is
    the best step's. shown: the figures on the progress bar.
    """
    config = run.config
    run.restore(updaters, kept)
    run_log = run.folder.start(run.step) if run.main else None
    run.wait()
    batches = _Remembering(iter(data))
    running: dict[str, list[Tensor]] = {}

    def validated() -> bool:
        """Whether this step is the best one so far and must be kept."""
        return _is_best(run, run_log, validate(run.step), watched)

    def save() -> None:
        _save(run, data, {**updaters, **kept}, weights(run.step), weights_name)

    bar = tqdm(total=config.steps, initial=run.step, disable=None if run.main else True, unit="step")
    if run.step == 0 and validated():
        save()
    with StopSignals() as signals:
        while run.step < config.steps and not run.any_rank(signals.received):
            values = step(batches)
            run.step += 1
            _stop_if_broken(run, updaters, values, batches.taken())
            for name, value in values.items():
                running.setdefault(name, []).append(value)
            bar.update()
            last = run.step == config.steps
            if run.step % config.log_every == 0 or last:
                figures = {name: value for part in kept.values() for name, value in part.figures().items()}
                found = _log(run, run_log, running, updaters, {**data.figures(), **figures})
                bar.set_postfix({name: f"{found[name]:.4g}" for name in shown if name in found})
            due = run.step % config.save_every == 0 or last
            if run.step % validate_every == 0 or last:
                due |= validated()
            if due:
                save()
    bar.close()
    if run.step < config.steps:
        save()
        raise KeyboardInterrupt
    if run_log is not None:
        export(run.folder.path, run.step)
        run.folder.finish(run_log)
    run.wait()


class _Remembering(Generic[Batch]):
    """An iterator that knows what was taken since it was last asked."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self._taken = batches, list[Batch]()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._taken.append(batch)
        return batch

    def taken(self) -> list[Batch]:
        taken, self._taken = self._taken, []
        return taken


def _is_best(run: Run, run_log: RunLog | None, found: Figures | None, watched: str) -> bool:
    if found is not None and run_log is not None:
        run_log.log(run.step, found, kind="validation")
        sheet = run.folder.sheet(run.step)
        if sheet.exists():
            run_log.image(run.step, "validation", sheet)
    value = run.of_main(found.get(watched) if found is not None else None)
    better = value is not None and value < run.best["value"]
    if better:
        run.best = {"step": run.step, "value": value}
    return better


def _log(
    run: Run,
    run_log: RunLog | None,
    running: dict[str, list[Tensor]],
    updaters: Mapping[str, Updater],
    of_data: Figures,
) -> dict[str, float]:
    """Means since the last time, over all ranks; and how the updaters and the data stand."""
    names = sorted(running)
    means = torch.stack([_mean(running[name]) for name in names])
    means = run.mean_of_all(means)
    running.clear()
    values = dict(zip(names, means.tolist(), strict=True))
    values["learning_rate"] = next(iter(updaters.values())).learning_rate
    for name, updater in updaters.items():
        values |= {f"{name}_{figure}": value for figure, value in updater.figures().items()}
    values |= of_data
    if run_log is not None:
        run_log.log(run.step, values)
    return values


def _mean(values: list[Tensor]) -> Tensor:
    """Over what is finite: an overflow makes a gradient's norm infinite, which is counted elsewhere."""
    stacked = torch.stack(values).float()
    return stacked[torch.isfinite(stacked)].mean()


def _save(run: Run, data: Data, kept: Mapping[str, Kept], weights: bytes, weights_name: str) -> None:
    """Write a checkpoint."""
    states = run.of_all([data.state()])
    if run.main:
        tensors, values = {}, {"step": run.step, "best": run.best, "data": states}
        for name, part in kept.items():
            found, values[name] = part.state()
            tensors |= {f"{name}/{key}": tensor for key, tensor in found.items()}
        run.folder.save(Checkpoint(tensors, values), weights, run.best["step"], weights_name)
    run.wait()


def _stop_if_broken(
    run: Run, updaters: Mapping[str, Updater], values: Mapping[str, Tensor], batches: Sequence[object]
) -> None:
    """Stop where a gradient's norm was not finite: every rank sees the same one, so all stop together."""
    broken = [name for name, updater in updaters.items() if updater.broken]
    if not broken:
        return
    names = [name for batch in batches for name in getattr(batch, "names", ())]
    kept = run.folder.keep_failed(run.step, run.rank, batches, names)
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
    raise NonFiniteLossError(
        f"Step {run.step} gave the {broken[0]} a gradient that is not finite ({terms})"
        + (f" from {', '.join(names)}; the batch is in {kept}: look at it, l" if kept else "; l")
        + "ower the learning rate, or use precision=fp32, then resume=latest."
    )


def mean_into(values: dict[str, Tensor], new: Mapping[str, Tensor], count: int) -> None:
    """Add to `values` what `new` contributes to a mean over `count` micro-batches."""
    for name, value in new.items():
        values[name] = values.get(name, torch.zeros_like(value)) + value.detach() / count


def run_command(
    kind: type[Config],
    train: Callable[[Config], None],
    module: str,
    doc: str | None,
    example: str,
    argv: Sequence[str] | None,
) -> int:
    """Run a trainer's command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted.

    train: does the whole run that settings of `kind` describe.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").partition("\n")[0])
    parser.add_argument("--config", required=True, help=f"a YAML file, such as {example}")
    parser.add_argument(
        "settings", nargs="*", metavar="section.key=value", help="changes to the configuration"
    )
    args = parser.parse_args(argv)
    return run_main(
        lambda: train(read_settings(kind, args.config, args.settings)),
        log,
        interrupted="interrupted; resume=latest goes on from the last checkpoint",
        line="%(levelname)s: %(message)s",
    )
