"""Train OSEDiff: one base, a generator and a regulariser that take turns.

    python -m training.train --config training/configs/tiny.yaml [section.key=value ...]
    accelerate launch training/train.py --config training/configs/osediff_sd21.yaml resume=latest

RUN/ holds checkpoints/, metrics.jsonl, sheets/, tensorboard's files, report.html and at the end weights.safetensors.
Ctrl-C and SIGTERM save a checkpoint first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

if __package__ in (None, ""):  # run by its path, as accelerate does
    sys.path.insert(0, str(Path(__file__).parents[1]))
    __package__ = "training"

import torch
from torch import Tensor

from .config import TrainConfig
from .data import Batch, PairLoader
from .data.pairs import drops_prompt
from .data.prompts import PromptCache, identity_of, kept_dtype
from .draws import generator_draws, regulariser_draws
from .export import weights_bytes, weights_name, write_results
from .losses.balance import GradientBalance
from .losses.projected import projected_discriminator
from .losses.teacher import Teacher
from .networks import Networks, build_networks
from .perceptual import trained_distance
from .run.data import open_pairs
from .run.loop import loop, mean_into, run_command
from .run.start import Run
from .run.updater import Updater
from .sharding import shard_frozen
from .speed import apply_speed
from .steps import GeneratorStep, RegulariserStep
from .validate import RestoredPairs

_NOT_WRAPPED = (
    "Two losses share the networks, which accelerate's FSDP and DeepSpeed cannot wrap; launch with "
    "training/configs/accelerate/ddp.yaml, and split the frozen base by model.shard_base=true."
)


class Iteration:
    """The iteration of a run, and what it needs: networks, losses, optimisers, prompts.

    Raises OSEDiffError for settings that the networks, losses or caches cannot do.
    """

    def __init__(self, run: Run[TrainConfig], networks: Networks) -> None:
        config = run.config
        kind, loss, optim, scaled = (
            config.model.regulariser,
            config.loss,
            config.optim,
            config.precision == "fp16",
        )
        self.run, self.config, self.networks = run, config, networks
        perceptual = trained_distance(loss, run.device)
        apply_speed(config.speed, networks, perceptual)
        if loss.uses("adversarial"):
            networks.judge_images(
                projected_discriminator(loss.adversarial_features, config.seed).to(run.device)
            )
        # fp16 loses small gradients
        self.balance = GradientBalance(loss.shares, loss.share_every, scale=2.0**16 if scaled else 1.0)
        self.teacher = None
        if loss.uses("teacher") and loss.teacher_model:
            self.teacher = Teacher(Path(loss.teacher_model)).to(run.device)
        self.generator_step = run.distributed(
            GeneratorStep(networks, loss, kind, perceptual, config.precision, self.balance)
        )
        self.generator = Updater(
            networks.generator_parameters,
            optim.learning_rate,
            optim,
            config.steps,
            conv_in_factor=optim.conv_in_factor,
            ema=optim.ema,
            scale_loss=scaled,
        )
        self.updaters = {"generator": self.generator}
        self.regulariser = None
        if networks.regulariser_parameters:
            self.regulariser_step = run.distributed(RegulariserStep(networks, loss, kind, config.precision))
            self.regulariser = Updater(
                networks.regulariser_parameters,
                optim.regulariser_learning_rate,
                optim,
                config.steps,
                scale_loss=scaled,
                per_step=optim.regulariser_steps,
            )
            self.updaters["regulariser"] = self.regulariser
        self.prompts = PromptCache(
            networks.generator.encode_prompt,
            Path(config.prompt_cache) if config.prompt_cache else None,
            dtype=kept_dtype(config.precision),
            identity=identity_of(networks.base.text) if config.prompt_cache else "",
        )
        self.negative_embeds = self.prompts([loss.negative_prompt]).to(run.device)

    def __call__(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """The generator learns from `accumulate` micro-batches, then the regulariser from what it made of them."""
        config, count, values, seen = self.config, self.config.optim.accumulate, {}, []

        for batch in islice(batches, count):
            lq, hq, prompt_embeds = self._on_device(batch)
            draws = generator_draws(
                config.seed,
                batch.indices,
                self._latent_shape(lq),
                config.loss.timesteps,
                config.loss.sample_posterior,
            ).to(lq.device)
            with self.run.gradients_stay(self.generator_step, len(seen) + 1 < count):
                out = self.generator_step(
                    lq,
                    hq,
                    prompt_embeds,
                    self.negative_embeds.expand_as(prompt_embeds),
                    draws,
                    self._target(batch, lq),
                    self._generator_embeds(batch, prompt_embeds),
                )
                self.generator.backward(out["loss"] / count)
            seen.append((batch.indices, out.pop("latents"), out.pop("image"), hq, prompt_embeds))
            mean_into(values, out, count)
        values["grad_norm"] = self.generator.step()

        regulariser = self.regulariser
        for update in range(config.optim.regulariser_steps if regulariser else 0):
            assert regulariser is not None
            learnt = {}
            for done, (indices, latents, image, hq, prompt_embeds) in enumerate(seen, start=1):
                draws = regulariser_draws(
                    config.seed, indices, latents.shape[1:], self.networks.base.schedule.num_timesteps, update
                ).to(latents.device)
                with self.run.gradients_stay(self.regulariser_step, done < count):
                    loss = self.regulariser_step(latents, image, hq, prompt_embeds, draws)
                    regulariser.backward(loss / count)
                mean_into(learnt, {"diffusion": loss}, count)
            values |= learnt | {"regulariser_grad_norm": regulariser.step()}
        return values

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """lq, hq (B, 3, H, W), prompt_embeds (B, L, D)."""
        device = self.run.device
        lq, hq = (side.to(device, non_blocking=True) for side in (batch.lq, batch.hq))
        return lq, hq, self.prompts(batch.prompts).to(device)

    def _target(self, batch: Batch, lq: Tensor) -> Tensor | None:
        """A teacher's, as hq; None without one."""
        if self.teacher is not None:
            return self.teacher(lq)
        if batch.target is None or not self.config.loss.uses("teacher"):
            return None
        return batch.target.to(lq.device)

    def _generator_embeds(self, batch: Batch, prompt_embeds: Tensor) -> Tensor | None:
        """With empty prompts where these are dropped for the generator alone; None for the same as all have."""
        data = self.config.data
        if data.prompt_dropout_of == "both" or not data.prompt_dropout:
            return None
        dropped = [drops_prompt(self.config.seed, n, data.prompt_dropout) for n in batch.indices]
        empty = self.prompts([""]).to(prompt_embeds)
        return torch.where(torch.tensor(dropped, device=empty.device)[:, None, None], empty, prompt_embeds)

    def _latent_shape(self, image: Tensor) -> tuple[int, int, int]:
        vae = self.networks.base.vae
        return vae.latent_channels, image.shape[-2] // vae.downscale, image.shape[-1] // vae.downscale


def begin(run: Run[TrainConfig]) -> tuple[PairLoader, Iteration]:
    """What a run trains on, and what it does in a step. Raises OSEDiffError; nothing is written."""
    config = run.config
    data = open_pairs(run)  # before the base, which takes long to read
    networks = build_networks(config.model, run.device, config.seed)
    data.check_multiple(networks.base.vae.downscale)
    if config.model.shard_base:
        shard_frozen(networks.base.unet.module, run.device)
    iteration = Iteration(run, networks)
    if run.main:
        iteration.prompts.foresee(data.captions.listed)
    return data, iteration


def train(config: TrainConfig) -> None:
    """A whole run. Raises OSEDiffError for whatever keeps it from starting, before anything is written, or stops it."""
    run = Run(config, _NOT_WRAPPED)
    data, iteration = begin(run)
    networks, generator = iteration.networks, iteration.generator
    validation = RestoredPairs.of_run(run, networks, generator, iteration.prompts)
    loop(
        run,
        data,
        iteration,
        updaters=iteration.updaters,
        kept={"balance": iteration.balance} if iteration.balance else {},
        weights=lambda step: weights_bytes(networks, generator, step),
        weights_name=weights_name(networks),
        export=lambda folder, step: write_results(folder, networks, generator, step, config.export_pkl),
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
