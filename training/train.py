"""Train OSEDiff: one base, a generator and a regulariser that take turns.

    python -m training.train --config training/configs/tiny.yaml [section.key=value ...]
    accelerate launch training/train.py --config training/configs/osediff_sd21.yaml resume=latest

RUN/ holds checkpoints/, metrics.jsonl, sheets/, tensorboard's files, report.html and at the end weights.safetensors.
Ctrl-C and SIGTERM save a checkpoint first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

if __package__ in (None, ""):  # run by its path, as accelerate does
    sys.path.insert(0, str(Path(__file__).parents[1]))
    __package__ = "training"

from torch import Tensor

from osediff_core.errors import CheckpointError
from osediff_core.weights.checkpoint import write_weights
from osediff_core.weights.formats import osediff_safetensors
from osediff_core.weights.one_step_weights import OneStepWeights

from .config import TrainConfig, load_config
from .data import Batch
from .data.prompts import PromptCache, identity_of, kept_dtype
from .draws import generator_draws, regulariser_draws
from .networks import build_networks
from .perceptual import perceptual_loss
from .run.loop import Loop, add_means, run_command
from .run.updater import Updater
from .sharding import shard_frozen
from .steps import GeneratorStep, RegulariserStep, restore
from .validate import Validation

log = logging.getLogger("training")


class Trainer(Loop):
    """A run of the generator and its regulariser; `run`, the loop, is in loop.py."""

    shown: ClassVar[tuple[str, ...]] = ("l2", "perceptual", "regulariser", "diffusion")
    watched: ClassVar[str] = "distance"
    config: TrainConfig

    def __init__(self, config: TrainConfig) -> None:
        """Raises OSEDiffError for whatever keeps the run from starting; nothing is written before all is well."""
        super().__init__(
            config,
            "Two losses share the networks, which accelerate's FSDP and DeepSpeed cannot wrap; launch with "
            "training/configs/accelerate/ddp.yaml, and split the frozen base by model.shard_base=true.",
        )
        self.validates_everywhere = config.model.shard_base  # a split base runs on all ranks or on none
        self.networks = build_networks(config.model, self.device, config.seed)
        if config.model.shard_base:
            shard_frozen(self.networks.base.unet.module, self.device)
        kind, loss = config.model.regulariser, config.loss
        perceptual = None
        if loss.perceptual and loss.perceptual_kind != "none":
            backbone = Path(loss.perceptual_weights) if loss.perceptual_weights else None
            perceptual = perceptual_loss(loss.perceptual_kind, backbone, loss.allow_download).to(self.device)
        self.generator_step = GeneratorStep(self.networks, loss, kind, perceptual, config.precision)
        self.regulariser_step = RegulariserStep(self.networks, loss, kind, config.precision)
        self._make_updaters()
        self.prompts = PromptCache(
            self.networks.generator.encode_prompt,
            Path(config.prompt_cache) if config.prompt_cache else None,
            dtype=kept_dtype(config.precision),
            identity=identity_of(self.networks.base.text) if config.prompt_cache else "",
        )
        self.negative_embeds = self.prompts([loss.negative_prompt]).to(self.device)
        self.validation = self._validation()
        self.restore(multiple=self.networks.base.vae.downscale)
        if self.main:
            self.prompts.foresee(self.loader.captions.listed)

    def _make_updaters(self) -> None:
        config, optim = self.config, self.config.optim
        scale = config.precision == "fp16"
        self.updater = Updater(
            self.networks.generator_parameters,
            optim.learning_rate,
            optim,
            config.steps,
            conv_in_factor=optim.conv_in_factor,
            ema=optim.ema,
            scale_loss=scale,
        )
        self.generator_step = self.accelerator.prepare_model(self.generator_step)
        self.regulariser_updater = None
        if self.networks.regulariser_parameters:
            self.regulariser_updater = Updater(
                self.networks.regulariser_parameters,
                optim.regulariser_learning_rate,
                optim,
                config.steps,
                scale_loss=scale,
                per_step=optim.regulariser_steps,
            )
            self.regulariser_step = self.accelerator.prepare_model(self.regulariser_step)
        both = {"generator": self.updater, "regulariser": self.regulariser_updater}
        self.updaters = {name: updater for name, updater in both.items() if updater}

    # ---- a step ----

    def update(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One step: the generator learns from `accumulate` micro-batches, then the regulariser from what it made."""
        config = self.config
        seen, values = [], {}
        for index in range(config.optim.accumulate):
            batch = next(batches)
            lq, hq = batch.lq.to(self.device), batch.hq.to(self.device)
            prompt_embeds = self.prompts(batch.prompts).to(self.device)
            negative_embeds = self.negative_embeds.expand_as(prompt_embeds)
            draws = generator_draws(
                config.seed,
                batch.indices,
                self._latent_shape(lq),
                config.loss.timesteps,
                config.loss.sample_posterior,
            ).to(self.device)
            with self.sync(self.generator_step, index):
                out = self.generator_step(lq, hq, prompt_embeds, negative_embeds, draws)
                self.updater.backward(out["loss"] / config.optim.accumulate)
            seen.append((batch, out.pop("latents"), out.pop("image"), hq, prompt_embeds))
            add_means(values, out, config.optim.accumulate)
        values["grad_norm"] = self.updater.step()
        self.check("generator", self.updater, values["grad_norm"], values, [batch for batch, *_ in seen])
        for update in range(config.optim.regulariser_steps if self.regulariser_updater else 0):
            self._update_regulariser(update, seen, values)
        return values

    def _update_regulariser(self, update: int, seen: list[tuple], values: dict[str, Tensor]) -> None:
        config, share = self.config, 1 / len(seen)
        total = {}
        for index, (batch, latents, image, hq, prompt_embeds) in enumerate(seen):
            draws = regulariser_draws(
                config.seed,
                batch.indices,
                latents.shape[1:],
                self.networks.base.schedule.num_timesteps,
                update,
            ).to(self.device)
            with self.sync(self.regulariser_step, index):
                loss = self.regulariser_step(latents, image, hq, prompt_embeds, draws)
                self.regulariser_updater.backward(loss * share)
            add_means(total, {"diffusion": loss}, len(seen))
        total["regulariser_grad_norm"] = self.regulariser_updater.step()
        values |= total
        norm = values["regulariser_grad_norm"]
        self.check("regulariser", self.regulariser_updater, norm, values, [batch for batch, *_ in seen])

    def _latent_shape(self, image: Tensor) -> tuple[int, int, int]:
        vae = self.networks.base.vae
        return vae.latent_channels, image.shape[-2] // vae.downscale, image.shape[-1] // vae.downscale

    # ---- validation and files ----

    def _validation(self) -> Validation | None:
        chosen = self.config.validation
        if chosen.path is None:
            return None
        distance = perceptual_loss(chosen.distance).to(self.device)
        return Validation.from_folder(
            Path(chosen.path),
            limit=chosen.limit,
            size=chosen.size,
            multiple=self.networks.base.vae.downscale,
            distance=distance,
            preset=chosen.preset,
            prompt=chosen.prompt,
        )

    def validate(self) -> dict[str, float] | None:
        """Restore the fixed pairs with the averaged weights; writes the sheet."""
        if self.validation is None:
            return None
        self.updater.swap_average()

        def restored(lq: Tensor, prompts: list[str]) -> Tensor:
            embeds = self.prompts(prompts).to(self.device)
            return restore(self.networks, lq.to(self.device), embeds, self.config.precision)

        found = self.validation.run(restored)
        self.updater.swap_average()
        if self.main:
            sheet = self.folder.sheet(self.step)
            self.validation.sheet(sheet)
            self.log.image(self.step, "validation", sheet)
        return found

    def weights(self) -> bytes:
        """The generator's, as the core's .safetensors."""
        return osediff_safetensors.write(self._weights())

    def export(self, folder: Path) -> None:
        """Write weights.safetensors, and weights.pkl where the official format can hold them."""
        weights = self._weights()
        write_weights(folder / "weights.safetensors", weights)
        if self.config.export_pkl:
            try:
                write_weights(folder / "weights.pkl", weights)
            except CheckpointError as error:
                log.info("weights.pkl is left out: %s", error)

    def _weights(self) -> OneStepWeights:
        self.updater.swap_average()
        weights = self.networks.weights({"steps": str(self.step)})
        self.updater.swap_average()
        return weights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted."""

    def start(path: str, settings: list[str]) -> Trainer:
        return Trainer(load_config(path, settings))

    return run_command(start, "training.train", __doc__, "training/configs/tiny.yaml", argv)


if __name__ == "__main__":
    sys.exit(main())
