"""One training of the plan with one seed: trained, then measured. The command starts one process for each.

    python -m training.ablations.job RUN --training rank-8 --kodak DIR --pairs DIR [--set section.key=value ...]

What RUN holds already is not done again; an interrupted training goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from osediff_core.cli.entry import run_main

from .. import train
from .evaluate import evaluate_run
from .figures import is_trained
from .options import Pictures, add_common
from .plan import CONFIG, TRAININGS, config_of, settings_of

log = logging.getLogger("training.ablations")


def do(run: Path, training: str, pictures: Pictures, settings: list[str]) -> int:
    """Train and measure what `run` lacks; the trainer's exit status. Raises OSEDiffError."""
    if not is_trained(run):
        changes = [*settings_of(training), *settings, f"output={run}", "resume=latest"]
        status = train.main(["--config", str(CONFIG), *changes])
        if status:
            return status
    evaluation = pictures.evaluation(training)
    if not evaluation.is_done(run):
        config = config_of(training, settings)
        evaluate_run(run, config.model.base, config.data.degradation, evaluation)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablations.job",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--training", choices=list(TRAININGS), required=True)
    add_common(parser)
    parser.add_argument("--until-eof", action="store_true", help="stop as by Ctrl-C when stdin ends")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    def work() -> int:
        if args.until_eof:
            # a shell that starts the command in the background makes it, and so this process, deaf to it
            signal.signal(signal.SIGINT, signal.default_int_handler)
            threading.Thread(target=_interrupt_at_eof, daemon=True).start()
        return do(args.run, args.training, Pictures.of(args), args.settings)

    return run_main(work, log, line="%(levelname)s: %(message)s")


def _interrupt_at_eof() -> None:
    """The pipe ends when the process that started this one wants it to stop, or is no more."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
