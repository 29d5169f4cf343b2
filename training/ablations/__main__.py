"""Train and measure every variant of the paper's ablations on the embedded base, and write the report.

    python -m training.ablations --tiles runs/tiles --kodak photos/kodak --pairs DIR --out runs/ablations

OUT/TRAINING/seed_N/ is a run of training/train.py, with log.txt and figures.json in it. What is finished is not done
again, so the same command goes on after Ctrl-C or a failure.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from osediff_core.cli.entry import run_main
from osediff_core.errors import OptionError

from ..run.settings import as_yaml
from .figures import is_trained
from .options import Pictures, add_common
from .plan import STUDIES, config_of, trainings
from .processes import Task, run_tasks
from .report import PAGE, write_report

log = logging.getLogger("training.ablations")

JOB = (sys.executable, "-m", "training.ablations.job")
_QUICK_STEPS, _QUICK_IMAGES = 10, 4
_OF_THE_FOLDER = ("output", "resume")  # settings that may differ between two starts of a run


def main(argv: Sequence[str] | None = None, job: Sequence[str] = JOB) -> int:
    """Run the command line: 0 done, 1 some runs failed, 2 a wrong option, 130 interrupted.

    job: what does a run, called with the options of job.py.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tiles",
        type=Path,
        required=True,
        metavar="DIR",
        help="pictures to train on (training.recipes.tiny.tiles)",
    )
    add_common(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    parser.add_argument("--steps", type=int, help="of each training (default: those of ablation.yaml)")
    parser.add_argument(
        "--quick", action="store_true", help="ten steps and four images of each set: whether all of it works"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="runs at a time, of one thread each (default: 2)"
    )
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="FILE", help="the report (default: docs/ablations.md)"
    )
    args = parser.parse_args(argv)

    if args.quick:
        args.steps, args.limit = args.steps or _QUICK_STEPS, min(args.limit, _QUICK_IMAGES)

    def work() -> int:
        failed = run(args, job)
        write_report(args.out, args.page)
        log.info("%s", args.page)
        return 1 if failed else 0

    return run_main(work, log, interrupted="interrupted; the same command goes on with what is left")


def run(args: argparse.Namespace, job: Sequence[str]) -> int:
    """Do all that is not done yet; how many runs failed. Raises OptionError."""
    pictures = Pictures.of(args)
    _check(args, pictures)
    settings = [f"data.sources={json.dumps([{'path': str(args.tiles.resolve())}])}", *args.settings]
    if args.steps is not None:
        settings.append(f"steps={args.steps}")
    tasks, done = [], 0
    for seed in dict.fromkeys(args.seeds):  # seed by seed: the first one is a whole, coarse answer
        for training in trainings(args.studies):
            folder, changes = args.out / training / f"seed_{seed}", [*settings, f"seed={seed}"]
            _check_same(folder, training, changes)
            if is_trained(folder) and pictures.evaluation(training).is_done(folder):
                done += 1
            else:
                options = [str(folder), "--training", training, *pictures.words(), "--until-eof"]
                options += [word for change in changes for word in ("--set", change)]
                tasks.append(Task(f"{training}, seed {seed}", (*job, *options), folder / "log.txt"))
    log.info("%d runs to do, %d are done", len(tasks), done)
    ended, failed = [], []

    started = time.monotonic()

    def tell(task: Task, why: str | None, seconds: float) -> None:
        ended.append(task)
        left = (time.monotonic() - started) / len(ended) * (len(tasks) - len(ended))
        count = f"{len(ended)} of {len(tasks)}, about {left / 60:.0f} min left"
        if why is None:
            log.info("%s: done in %.1f min (%s)", task.name, seconds / 60, count)
        else:
            failed.append(task)
            log.error("%s failed (%s; its log: %s): %s", task.name, count, task.log, why)

    run_tasks(tasks, args.processes, tell)
    return len(failed)


def _check(args: argparse.Namespace, pictures: Pictures) -> None:
    if pictures.kodak is None and pictures.pairs is None:
        raise OptionError("There is nothing to measure on; give --kodak, --pairs or both.")
    for option in ("tiles", "kodak", "pairs"):
        folder = getattr(args, option)
        if folder is not None and not folder.is_dir():
            raise OptionError(f"There is no folder {folder}; mend --{option}.")
    for option in ("processes", "size", "limit"):
        if getattr(args, option) < 1:
            raise OptionError(f"--{option} is {getattr(args, option)}, but must be 1 or more.")


def _check_same(folder: Path, training: str, changes: list[str]) -> None:
    """Weights that other settings made must not be taken for those of these."""
    planned = yaml.safe_load(as_yaml(config_of(training, changes)))
    try:
        found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    differing = [key for key in planned if key not in _OF_THE_FOLDER and found.get(key) != planned[key]]
    if differing:
        raise OptionError(
            f"{folder} was trained with other settings ({', '.join(differing)}); choose another --out, or remove it."
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
