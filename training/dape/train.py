"""Train DAPE: a tagger learns to say of a degraded picture what it says of the good one (SeeSR, arXiv 2311.16518).

    python -m training.dape.train --config training/configs/dape_tiny.yaml [section.key=value ...]
    accelerate launch training/dape/train.py --config training/configs/dape_seesr.yaml resume=latest

RUN/ holds checkpoints/, metrics.jsonl, tensorboard's files, report.html and at the end DAPE.pth, which the official
code reads, and the same as weights.safetensors. Ctrl-C and SIGTERM save a checkpoint first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

if __package__ in (None, ""):  # run by its path, as accelerate does
    sys.path.insert(0, str(Path(__file__).parents[2]))
    __package__ = "training.dape"

import numpy as np
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically
from osediff_core.dape.choice import tagger_path
from osediff_core.dape.preprocess import preprocess
from osediff_core.dape.tags import TagTable
from osediff_core.dape.weights import TaggerWeights, read_tagger, write_tagger
from osediff_core.runtime.device import DTYPES

from ..data import Batch
from ..run.loop import Loop, add_means, run_command
from ..run.settings import read_settings
from ..run.updater import Updater
from ..steps import autocast
from ..validate import Validation
from .adapters import DapeAdapters, pth_bytes, safetensors_bytes
from .config import DapeConfig
from .step import DapeStep, seen
from .validate import TagValidation


class DapeTrainer(Loop):
    """A run of DAPE's training; `run`, the loop, is in loop.py."""

    shown: ClassVar[tuple[str, ...]] = ("features", "logits")
    watched: ClassVar[str] = "loss"
    config: DapeConfig

    def __init__(self, config: DapeConfig) -> None:
        """Raises OSEDiffError for whatever keeps the run from starting; nothing is written before all is well."""
        super().__init__(
            config,
            "Student and teacher are one network, which accelerate's FSDP and DeepSpeed cannot wrap; launch with "
            "training/configs/accelerate/ddp.yaml.",
        )
        model, optim = config.model, config.optim
        self.tagger = read_tagger(tagger_path(model.tagger), dape=False, dtype=DTYPES[model.dtype])
        self.network = self.tagger.network().to(self.device)
        self.adapters = DapeAdapters(self.network, model.rank, config.seed)
        if model.start_from:
            start = read_tagger(tagger_path(model.tagger), model.start_from, merge=False).lora
            self.adapters.load(start, model.start_from)
        step = DapeStep(self.network, self.adapters, config.loss, config.precision, model.train_mode)
        self.updater = Updater(
            self.adapters.parameters,
            optim.learning_rate,
            optim,
            config.steps,
            ema=optim.ema,
            scale_loss=config.precision == "fp16",
        )
        self.updaters = {"student": self.updater}
        self.dape_step = self.accelerator.prepare_model(step)
        self.validation = self._validation()
        self.restore(multiple=1)

    # ---- a step ----

    def update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One step of the student on `accumulate` micro-batches."""
        count, seen_batches, values = self.config.optim.accumulate, [], {}
        for index in range(count):
            batch = next(batches)
            lq, hq = batch.lq.to(self.device), batch.hq.to(self.device)
            with self.sync(self.dape_step, index):
                out = self.dape_step(lq, hq, self._seed(batch))
                self.updater.backward(out["loss"] / count)
            seen_batches.append(batch)
            add_means(values, out, count)
        values["grad_norm"] = self.updater.step()
        self.check("student", self.updater, values["grad_norm"], values, seen_batches)
        return values

    def _seed(self, batch: Batch) -> int:
        """Of dropout: another one for each batch and rank, as its samples are."""
        state = np.random.SeedSequence(self.config.seed, spawn_key=(batch.indices[0],)).generate_state(
            2, np.uint32
        )
        return int(state[0]) << 31 | int(state[1]) >> 1

    # ---- validation and files ----

    def _validation(self) -> TagValidation | None:
        chosen = self.config.validation
        if chosen.path is None:
            return None
        pairs = Validation.from_folder(
            Path(chosen.path), limit=chosen.limit, size=chosen.size, multiple=1, preset=chosen.preset
        ).pairs
        return TagValidation(pairs, TagTable.of(self.network.config))

    def validate(self) -> dict[str, float] | None:
        """Tag the fixed pairs with the averaged weights."""
        if self.validation is None:
            return None
        self.updater.swap_average()
        self.network.eval()

        def student(image: Tensor) -> tuple[Tensor, Tensor]:
            with autocast(self.device, self.config.precision):
                return seen(self.network, preprocess(image.to(self.device), self.network.config.image_size))

        def teacher(image: Tensor) -> tuple[Tensor, Tensor]:
            with self.adapters.off():
                return student(image)

        found = self.validation.run(student, teacher)
        self.updater.swap_average()
        return found

    def weights(self) -> bytes:
        """The LoRA."""
        return safetensors_bytes(self._pairs(), {"steps": str(self.step)})

    def export(self, folder: Path) -> None:
        """Write DAPE.pth, the same as weights.safetensors, and the whole tagger if asked for."""
        pairs = self._pairs()
        write_bytes_atomically(folder / "DAPE.pth", pth_bytes(pairs))
        write_bytes_atomically(
            folder / "weights.safetensors", safetensors_bytes(pairs, {"steps": str(self.step)})
        )
        if self.config.export_tagger != "none":
            tagger = self.tagger
            whole = TaggerWeights(tagger.config, tagger.tensors, pairs, metadata=tagger.metadata)
            write_tagger(folder / "tagger.safetensors", whole, self.config.export_tagger)

    def _pairs(self) -> dict:
        self.updater.swap_average()
        pairs = self.adapters.pairs()
        self.updater.swap_average()
        return pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted."""

    def start(path: str, settings: list[str]) -> DapeTrainer:
        return DapeTrainer(read_settings(DapeConfig, path, settings))

    return run_command(start, "training.dape.train", __doc__, "training/configs/dape_tiny.yaml", argv)


if __name__ == "__main__":
    sys.exit(main())
