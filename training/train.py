"""Train OSEDiff: one base, a generator and a regulariser that take turns.

    python -m training.train --config training/configs/tiny.yaml [section.key=value ...]
    accelerate launch training/train.py --config training/configs/osediff_sd21.yaml resume=latest

RUN/ holds checkpoints/, metrics.jsonl, sheets/, tensorboard's files, report.html and at the end weights.safetensors.
Ctrl-C and SIGTERM save a checkpoint first.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run by its path, as accelerate does
    sys.path.insert(0, str(Path(__file__).parents[1]))
    __package__ = "training"

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from tqdm import tqdm

from osediff_core.errors import OptionError, OSEDiffError

from .checkpoints import Checkpoint, load_checkpoint
from .config import TrainConfig, load_config
from .data import Batch, PairLoader
from .data.prompts import PromptCache
from .draws import generator_draws, regulariser_draws
from .errors import NonFiniteLossError, TrainingError
from .networks import build_networks
from .perceptual import perceptual_loss
from .run_folder import RunFolder
from .sharding import shard_frozen
from .signals import StopSignals
from .steps import GeneratorStep, RegulariserStep, restore
from .updater import Updater
from .validate import Validation

log = logging.getLogger("training")


class Trainer:
    """Everything of a run; `run` is the loop."""

    def __init__(self, config: TrainConfig) -> None:
        """Raises OSEDiffError for whatever keeps the run from starting; nothing is written before all is well."""
        self.config = config
        # Precision and loss scale are ours, one scale for each optimiser: accelerate would share one.
        self.accelerator = Accelerator(mixed_precision="no", cpu=config.device == "cpu")
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise TrainingError(
                "Two losses share the networks, which accelerate's FSDP and DeepSpeed cannot wrap; launch with "
                "training/configs/accelerate/ddp.yaml, and split the frozen base by model.shard_base=true."
            )
        self.folder = RunFolder(config)
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
            identity=config.model.base,
        )
        self.negative_embeds = self.prompts([loss.negative_prompt]).to(self.device)
        self.validation = self._validation()
        self.step, self.best = 0, {"step": None, "value": float("inf")}
        data_state = self._load(self.folder.resumed) if self.folder.resumed else None
        self.loader = PairLoader(
            config.data,
            config.batch,
            config.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            state=data_state,
            multiple=self.networks.base.vae.downscale,
        )
        self.signals = StopSignals()

    def _make_updaters(self) -> None:
        config, optim = self.config, self.config.optim
        scale = config.precision == "fp16"
        self.updater = Updater(
            self.networks.generator_parameters,
            optim.learning_rate,
            optim,
            config.steps,
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
                config.steps * optim.regulariser_steps,
                scale_loss=scale,
            )
            self.regulariser_step = self.accelerator.prepare_model(self.regulariser_step)

    # ---- the loop ----

    def run(self) -> None:
        """Train from where the run stands to its last step. Raises OSEDiffError; what was saved stays."""
        config = self.config
        self.log = self.folder.start(self.step) if self.main else None
        self.accelerator.wait_for_everyone()
        batches = iter(self.loader)
        bar = tqdm(total=config.steps, initial=self.step, disable=None if self.main else True, unit="step")
        running: dict[str, list[Tensor]] = {}
        if self.step == 0:
            self._validate()
        with self.signals:
            while self.step < config.steps and not self._must_stop():
                values = self.update(batches)
                self.step += 1
                for name, value in values.items():
                    running.setdefault(name, []).append(value)
                bar.update()
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    bar.set_postfix(self._log(running))
                if self.validation and (self.step % config.validation.every == 0 or last):
                    self._validate()
                if self.step % config.save_every == 0 or last:
                    self.save()
        bar.close()
        if self.step < config.steps:
            self.save()
            raise KeyboardInterrupt
        self._finish()

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
            with self._sync(self.generator_step, index):
                out = self.generator_step(lq, hq, prompt_embeds, negative_embeds, draws)
                self.updater.backward(out["loss"] / config.optim.accumulate)
            seen.append((batch, out.pop("latents"), out.pop("image"), hq, prompt_embeds))
            _add(values, out, config.optim.accumulate)
        values["grad_norm"] = self.updater.step()
        self._check("generator", self.updater, values, seen)
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
            with self._sync(self.regulariser_step, index):
                loss = self.regulariser_step(latents, image, hq, prompt_embeds, draws)
                self.regulariser_updater.backward(loss * share)
            _add(total, {"diffusion": loss}, len(seen))
        total["regulariser_grad_norm"] = self.regulariser_updater.step()
        values |= total
        self._check("regulariser", self.regulariser_updater, values, seen)

    def _sync(self, model: nn.Module, index: int) -> Any:  # noqa: ANN401 - a context manager
        """Gradients travel between ranks once a step, with the last micro-batch."""
        if index + 1 == self.config.optim.accumulate:
            return torch.enable_grad()
        return self.accelerator.no_sync(model)

    def _latent_shape(self, image: Tensor) -> tuple[int, int, int]:
        vae = self.networks.base.vae
        return vae.latent_channels, image.shape[-2] // vae.downscale, image.shape[-1] // vae.downscale

    def _check(self, who: str, updater: Updater, values: dict[str, Tensor], seen: list[tuple]) -> None:
        """Every rank sees the same norm, so all stop together."""
        norm = values["grad_norm" if who == "generator" else "regulariser_grad_norm"]
        if bool(torch.isfinite(norm)) or (updater.scaler.is_enabled() and updater.scaler.get_scale() >= 1):
            return
        names = [name for batch, *_ in seen for name in batch.names]
        lq, hq = (torch.cat([getattr(batch, side) for batch, *_ in seen]) for side in ("lq", "hq"))
        path = self.folder.keep_failed(self.step + 1, self.accelerator.process_index, lq, hq, names)
        terms = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        raise NonFiniteLossError(
            f"Step {self.step + 1} gave the {who} a gradient that is not finite ({terms}) from {', '.join(names)}; the "
            f"batch is in {path}: look at it, lower the learning rate, or use precision=fp32, then resume=latest."
        )

    # ---- validation, logs, files ----

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

    def _validate(self) -> None:
        if self.validation is None:
            return
        if self.main or self.config.model.shard_base:  # a split base runs on all ranks or on none
            self.updater.swap_average()

            def restored(lq: Tensor, prompts: list[str]) -> Tensor:
                embeds = self.prompts(prompts).to(self.device)
                return restore(self.networks, lq.to(self.device), embeds, self.config.precision)

            found = self.validation.run(restored)
            self.updater.swap_average()
            if self.main:
                self._keep_validation(found)
        self.accelerator.wait_for_everyone()

    def _keep_validation(self, found: dict[str, float]) -> None:
        self.log.log(self.step, found, kind="validation")
        sheet = self.folder.sheet(self.step)
        self.validation.sheet(sheet)
        self.log.image(self.step, "validation", sheet)
        if found["distance"] < self.best["value"]:
            self.best = {"step": self.step, "value": found["distance"]}

    def _log(self, running: dict[str, list[Tensor]]) -> dict[str, str]:
        """Means since the last time, over all ranks."""
        names = sorted(running)
        means = torch.stack([torch.stack(running[name]).float().mean() for name in names])
        means = self.accelerator.reduce(means, "mean")
        running.clear()
        values = dict(zip(names, means.tolist(), strict=True)) | {
            "learning_rate": self.updater.learning_rate,
            "skipped": float(len(self.loader.skipped)),
            "enlarged": float(self.loader.enlarged),
        }
        if self.main:
            self.log.log(self.step, values)
        shown = ("l2", "perceptual", "regulariser", "diffusion")
        return {name: f"{values[name]:.4g}" for name in shown if name in values}

    def save(self) -> None:
        """Write a checkpoint."""
        states = gather_object([self.loader.state()])
        if self.main:
            tensors, values = {}, {"step": self.step, "best": self.best, "data": states}
            for name, updater in self._updaters().items():
                found, values[name] = updater.state()
                tensors |= {f"{name}/{key}": tensor for key, tensor in found.items()}
            checkpoint = Checkpoint(tensors, values)
            self.folder.save(checkpoint, self._weights(), self.best["step"])
        self.accelerator.wait_for_everyone()

    def _weights(self) -> Any:  # noqa: ANN401 - OSEDiffWeights
        self.updater.swap_average()
        weights = self.networks.weights({"steps": str(self.step)})
        self.updater.swap_average()
        return weights

    def _updaters(self) -> dict[str, Updater]:
        both = {"generator": self.updater, "regulariser": self.regulariser_updater}
        return {name: updater for name, updater in both.items() if updater}

    def _load(self, path: Path) -> dict[str, Any]:
        """Set everything as it was; returns this rank's position in the data."""
        checkpoint = load_checkpoint(path)
        values = checkpoint.values
        try:
            for name, updater in self._updaters().items():
                prefix = f"{name}/"
                tensors = {
                    key.removeprefix(prefix): tensor
                    for key, tensor in checkpoint.tensors.items()
                    if key.startswith(prefix)
                }
                updater.load(tensors, values[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path} is of a run with another base, rank or regulariser; resume it with the config.yaml in it."
            ) from error
        states = values["data"]
        if len(states) != self.accelerator.num_processes:
            raise TrainingError(
                f"{path} is of a run with {len(states)} processes, not {self.accelerator.num_processes}; resume it "
                "with as many, as they share out the data."
            )
        self.step, self.best = values["step"], values["best"]
        log.info("resumed from %s", path)
        return states[self.accelerator.process_index]

    def _must_stop(self) -> bool:
        """Whether any rank was told to: all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return self.signals.received
        flag = torch.tensor(float(self.signals.received), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _finish(self) -> None:
        if self.main:
            self.folder.finish(self._weights(), self.log)
        self.accelerator.wait_for_everyone()


def _add(values: dict[str, Tensor], new: dict[str, Tensor], count: int) -> None:
    for name, value in new.items():
        values[name] = values.get(name, 0) + value.detach() / count


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed, 2 a wrong setting, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a YAML file, such as training/configs/tiny.yaml")
    parser.add_argument(
        "settings", nargs="*", metavar="section.key=value", help="changes to the configuration"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        Trainer(load_config(args.config, args.settings)).run()
    except OSEDiffError as error:
        log.error("%s", error)
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        log.error("interrupted; resume=latest goes on from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
