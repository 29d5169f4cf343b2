"""One step of training: the generator learns from some batches, then its regulariser from what it made of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from .config import TrainConfig
from .data import Batch
from .data.pairs import drops_prompt
from .data.prompts import PromptCache
from .draws import generator_draws, regulariser_draws
from .judges import Judges
from .losses.balance import GradientBalance
from .networks import Networks
from .run.loop import mean_into
from .run.start import Run
from .run.updater import Updater
from .steps import GeneratorStep, RegulariserStep

# Of a micro-batch, for the regulariser: numbers of the samples; latents, image, hq, prompt_embeds without a graph.
Seen = tuple[list[int], tuple[Tensor, Tensor, Tensor, Tensor]]


class Iteration:
    """A step, and what it needs: networks, losses, optimisers, prompts.

    updaters: what learns, by name. balance: of the losses that have a share of the gradient.
    Raises OSEDiffError for settings that the networks, losses or caches cannot do.
    """

    def __init__(self, run: Run[TrainConfig], networks: Networks, judges: Judges) -> None:
        config, self.run, self.networks, self.teacher = run.config, run, networks, judges.teacher
        loss, optim, kind = config.loss, config.optim, config.model.regulariser
        fp16 = config.precision == "fp16"  # which loses small gradients
        self.config = config
        self.balance = GradientBalance(loss.shares, loss.share_every, scale=2.0**16 if fp16 else 1.0)
        self.generator_step = run.distributed(
            GeneratorStep(networks, loss, kind, judges.perceptual, config.precision, self.balance)
        )
        self.generator = Updater(
            networks.generator_parameters,
            optim.learning_rate,
            optim,
            config.steps,
            conv_in_factor=optim.conv_in_factor,
            ema=optim.ema,
            scale_loss=fp16,
        )
        self.updaters = {"generator": self.generator}
        if networks.regulariser_parameters:
            self.regulariser_step = run.distributed(RegulariserStep(networks, loss, kind, config.precision))
            self.updaters["regulariser"] = Updater(
                networks.regulariser_parameters,
                optim.regulariser_learning_rate,
                optim,
                config.steps,
                scale_loss=fp16,
                per_step=optim.regulariser_steps,
            )
        self.prompts = PromptCache.of_run(config.prompt_cache, networks.generator, config.precision)
        self.negative_embeds = self.prompts([loss.negative_prompt]).to(run.device)

    def __call__(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One step with the next `optim.accumulate` micro-batches; its figures, each a scalar."""
        figures, seen = self._teach_generator(islice(batches, self.config.optim.accumulate))
        if "regulariser" in self.updaters:
            for update in range(self.config.optim.regulariser_steps):
                figures |= self._teach_regulariser(self.updaters["regulariser"], seen, update)
        return figures

    def _teach_generator(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], list[Seen]]:
        """The figures, and what was made of the batches."""
        config, count, figures, seen = self.config, self.config.optim.accumulate, {}, []
        for batch in batches:
            lq, hq = (side.to(self.run.device, non_blocking=True) for side in (batch.lq, batch.hq))
            prompt_embeds = self.prompts(batch.prompts).to(self.run.device)  # (B, L, D)
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
            seen.append((batch.indices, (out.pop("latents"), out.pop("image"), hq, prompt_embeds)))
            mean_into(figures, out, count)
        return {**figures, "grad_norm": self.generator.step()}, seen

    def _teach_regulariser(self, updater: Updater, seen: list[Seen], update: int) -> dict[str, Tensor]:
        """The figures of its `update`-th update in this step."""
        figures: dict[str, Tensor] = {}
        for done, (indices, made) in enumerate(seen, start=1):
            latents, schedule = made[0], self.networks.base.schedule
            draws = regulariser_draws(
                self.config.seed, indices, latents.shape[1:], schedule.num_timesteps, update
            ).to(latents.device)
            with self.run.gradients_stay(self.regulariser_step, done < len(seen)):
                loss = self.regulariser_step(*made, draws)
                updater.backward(loss / len(seen))
            mean_into(figures, {"diffusion": loss}, len(seen))
        return {**figures, "regulariser_grad_norm": updater.step()}

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
