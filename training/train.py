"""Train OSEDiff: one base, a generator and a regulariser that take turns.

    python -m training.train --config training/configs/tiny.yaml [section.key=value ...]
    accelerate launch training/train.py --config training/configs/osediff_sd21.yaml resume=latest

RUN/ holds checkpoints/, metrics.jsonl, sheets/, tensorboard's files, report.html and at the end weights.safetensors.
Ctrl-C and SIGTERM save a checkpoint first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run by its path, as accelerate does
    sys.path.insert(0, str(Path(__file__).parents[1]))
    __package__ = "training"

from .config import TrainConfig
from .data import PairLoader
from .export import check_exports, weights_bytes, weights_name, write_results
from .iteration import Iteration
from .judges import load_judges
from .networks import build_networks
from .run.data import open_pairs
from .run.folder import check_writable
from .run.loop import loop, run_command
from .run.start import Run
from .sharding import shard_frozen
from .speed import apply_speed
from .validate import RestoredPairs, load_examiners

_NOT_WRAPPED = (
    "Two losses share the networks, which accelerate's FSDP and DeepSpeed cannot wrap; launch with "
    "training/configs/accelerate/ddp.yaml, and split the frozen base by model.shard_base=true."
)


def begin(run: Run[TrainConfig]) -> tuple[PairLoader, Iteration]:
    """What a run trains on, and what it does in a step. Raises OSEDiffError; nothing is written."""
    config = run.config
    if config.prompt_cache:
        check_writable(Path(config.prompt_cache), "The prompt cache", "choose another folder")
    data = open_pairs(run)
    judges = load_judges(config.loss, config.seed, run.device)
    networks = build_networks(config.model, run.device, config.seed)
    data.check_multiple(networks.base.vae.downscale)
    if config.model.shard_base:
        shard_frozen(networks.base.unet.module, run.device)
    apply_speed(config.speed, networks, judges.perceptual)
    if judges.projected is not None:
        networks.judge_images(judges.projected)
    iteration = Iteration(run, networks, judges)
    if run.main:
        iteration.prompts.foresee(data.captions.listed)
    return data, iteration


def train(config: TrainConfig) -> None:
    """A whole run. Raises OSEDiffError for whatever keeps it from starting, before anything is written, or stops it."""
    run = Run(config, _NOT_WRAPPED)
    check_exports(config)
    examiners = load_examiners(config.validation, run.device)  # what is small comes before the base
    data, iteration = begin(run)
    networks, generator = iteration.networks, iteration.generator
    validation = RestoredPairs(run, networks, generator, iteration.prompts, examiners)
    loop(
        run,
        data,
        iteration,
        updaters=iteration.updaters,
        kept={"balance": iteration.balance} if iteration.balance else {},
        weights=lambda step: weights_bytes(networks, generator, step),
        weights_name=weights_name(networks),
        export=lambda folder, step: write_results(folder, networks, generator, step, config),
        validate=validation.run,
        validate_every=config.validation.every,
        watched="distance",
        shown=("l2", "perceptual", "regulariser", "diffusion"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted."""
    return run_command(TrainConfig, train, "training.train", __doc__, "training/configs/tiny.yaml", argv)


if __name__ == "__main__":
    sys.exit(main())
