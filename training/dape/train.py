"""Train DAPE: a tagger learns to say of a degraded picture what it says of the good one (SeeSR, arXiv 2311.16518).

    python -m training.dape.train --config training/configs/dape_tiny.yaml [section.key=value ...]
    accelerate launch training/dape/train.py --config training/configs/dape_seesr.yaml resume=latest

RUN/ holds checkpoints/, metrics.jsonl, tensorboard's files, report.html and at the end DAPE.pth, which the official
code reads, and the same as weights.safetensors. Ctrl-C and SIGTERM save a checkpoint first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):  # run by its path, as accelerate does
    sys.path.insert(0, str(Path(__file__).parents[2]))
    __package__ = "training.dape"

import numpy as np
from torch import Tensor

from osediff_core.dape.choice import tagger_path
from osediff_core.dape.network import TaggerNetwork
from osediff_core.dape.weights import read_tagger
from osediff_core.runtime.device import DTYPES

from ..data import Batch
from ..run.data import open_pairs
from ..run.loop import loop, mean_into, run_command
from ..run.start import Run
from ..run.updater import Updater
from .adapters import DapeAdapters
from .config import DapeConfig
from .export import Results
from .step import DapeStep
from .validate import TagValidation, chosen_pairs

_NOT_WRAPPED = (
    "Student and teacher are one network, which accelerate's FSDP and DeepSpeed cannot wrap; launch with "
    "training/configs/accelerate/ddp.yaml."
)


class DapeIteration:
    """The iteration of a run: the student learns from `accumulate` micro-batches."""

    def __init__(self, run: Run[DapeConfig], network: TaggerNetwork, adapters: DapeAdapters) -> None:
        self.run, config = run, run.config
        self.dape_step = run.distributed(
            DapeStep(network, adapters, config.loss, config.precision, config.model.train_mode)
        )
        self.student = Updater(
            adapters.parameters,
            config.optim.learning_rate,
            config.optim,
            config.steps,
            ema=config.optim.ema,
            scale_loss=config.precision == "fp16",
        )

    def __call__(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One step of the student; the figures to be logged."""
        count, values = self.run.config.optim.accumulate, {}
        for done, batch in enumerate(islice(batches, count), start=1):
            lq, hq = batch.lq.to(self.run.device), batch.hq.to(self.run.device)
            with self.run.gradients_stay(self.dape_step, done < count):
                out = self.dape_step(lq, hq, self._seed(batch))
                self.student.backward(out["loss"] / count)
            mean_into(values, out, count)
        values["grad_norm"] = self.student.step()
        return values

    def _seed(self, batch: Batch) -> int:
        """Of dropout: another one for each batch and rank, as its samples are."""
        sequence = np.random.SeedSequence(self.run.config.seed, spawn_key=(batch.indices[0],))
        state = sequence.generate_state(2, np.uint32)
        return int(state[0]) << 31 | int(state[1]) >> 1


def train(config: DapeConfig) -> None:
    """A whole run. Raises OSEDiffError for whatever keeps it from starting, before anything is written, or stops it."""
    run = Run(config, _NOT_WRAPPED)
    data, pairs = (
        open_pairs(run),
        chosen_pairs(config.validation),
    )  # before the tagger, which takes long to read
    path = tagger_path(config.model.tagger)
    tagger = read_tagger(path, dape=False, dtype=DTYPES[config.model.dtype])
    network = tagger.network().to(run.device)
    adapters = DapeAdapters(network, config.model.rank, config.seed)
    if config.model.start_from:
        start = read_tagger(path, config.model.start_from, merge=False).lora
        adapters.load(start, config.model.start_from)
    iteration = DapeIteration(run, network, adapters)
    results = Results(tagger, adapters, iteration.student, config.export_tagger)
    validation = TagValidation(run, network, adapters, iteration.student, pairs)
    loop(
        run,
        data,
        iteration,
        updaters={"student": iteration.student},
        weights=results.weights,
        export=results.write,
        validate=validation.run,
        validate_every=config.validation.every,
        watched="loss",
        shown=("features", "logits"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted."""
    return run_command(
        DapeConfig, train, "training.dape.train", __doc__, "training/configs/dape_tiny.yaml", argv
    )


if __name__ == "__main__":
    sys.exit(main())
