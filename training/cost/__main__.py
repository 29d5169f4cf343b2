"""Cost of training: memory, arithmetic, hours and money of a configuration, without weights and without a GPU.

    python -m training.cost --config training/configs/osediff_24gb.yaml [section.key=value ...] [--gpu a100 --gpus 4]
    python -m training.cost --page docs/training_cost.md        (all recipes; some minutes)

The trainer's own step is taken on tensors without numbers: memory is what it holds at once when most is held,
arithmetic what torch's counter sees. What a kernel needs only while it runs, the CUDA context and fragmentation come on
top.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from osediff_core.atomic import write_bytes_atomically
from osediff_core.cli.entry import run_main

from ..config import load_config
from .measure import measure
from .page import details, page
from .plan import GPUS, UTILISATION, Plan

log = logging.getLogger("training.cost")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m training.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--config", help="a YAML file, such as those of training/configs")
    chosen.add_argument("--page", type=Path, metavar="FILE", help="write docs/training_cost.md there instead")
    parser.add_argument(
        "settings", nargs="*", metavar="section.key=value", help="changes to the configuration"
    )
    parser.add_argument("--gpu", choices=list(GPUS), default="a100", help="default: a100")
    parser.add_argument("--gpus", type=int, default=1, help="how many, a process each (default: 1)")
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help=f"default: {UTILISATION}")
    parser.add_argument("--price", type=float, help="of a GPU and hour, instead of the table's")
    args = parser.parse_args(argv)

    def work() -> None:
        if args.page:
            write_bytes_atomically(args.page, page().encode())
            return
        config = load_config(args.config, args.settings)
        plan = Plan(GPUS[args.gpu], args.gpus, args.utilisation, args.price)
        sys.stdout.write(details(args.config, config, measure(config), plan) + "\n")

    return run_main(work, log, level=logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
