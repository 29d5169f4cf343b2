"""A training step on tensors without numbers (PyTorch's FakeTensor): its memory and arithmetic, without weights or GPU.

The networks are made of the base's configurations, and then everything is the trainer's own: adapters, roles, losses,
gradient checkpointing, optimisers, autocast as on CUDA. So any setting of a run is counted as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.load_base import Base
from osediff_core.backends.networks import DiffusersUNet, DiffusersVAE
from osediff_core.backends.read_base import SD21_BASE, read_json
from osediff_core.backends.text import ClipPromptEncoder
from osediff_core.dape.config import TaggerConfig
from osediff_core.dape.network import TaggerNetwork
from osediff_core.errors import OptionError
from osediff_core.runtime.device import DTYPES
from osediff_core.schedule import NoiseSchedule

from ..config import TrainConfig
from ..draws import Draws
from ..losses.projected import projected_discriminator
from ..networks import Networks, equip
from ..perceptual import perceptual_loss
from ..run.updater import Updater
from ..steps import GeneratorStep, RegulariserStep
from .meter import Meter, as_on_gpu

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cost:
    """Of a run's step on each process.

    parameters: trained ones, by network. memory: bytes by what takes them; at the peak all are there together.
    flops: of a whole step by part, 2 a multiply-add. Prompts are taken as encoded.
    samples: that a process sees in a step.
    """

    parameters: dict[str, int]
    memory: dict[str, int]
    flops: dict[str, int]
    samples: int

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(self.memory.values())

    @property
    def flops_a_sample(self) -> float:
        """Of all parts."""
        return sum(self.flops.values()) / self.samples


def measure(config: TrainConfig, gpu_like: bool = True) -> Cost:
    """Take a step of the run that the settings describe, on fake tensors.

    gpu_like: with attention and autocast of CUDA instead of the CPU's.
    Raises OptionError for a resolution that the base cannot have, BaseModelError for configurations that cannot be
    read.
    """
    perceptual = _perceptual(config)  # with numbers
    gpu = as_on_gpu() if gpu_like else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), _fake_modules(), Meter() as meter, gpu:
        base = fake_base(config.model.base, DTYPES[config.model.base_dtype])
        networks = equip(base, config.model, CPU)
        if config.loss.uses("adversarial"):
            networks.judge_images(projected_discriminator(config.loss.adversarial_features, 0).to(CPU))
        perceptual = perceptual.to(CPU) if perceptual is not None else None
        trained = {"generator": networks.generator_parameters, "regulariser": networks.regulariser_parameters}
        of_trained = sum(p.nbytes for parameters in trained.values() for p in parameters.values())
        weights = meter.held - of_trained
        updaters = {name: _warmed(parameters, config) for name, parameters in trained.items() if parameters}
        lasting = meter.held - weights
        gradients = sum(p.nbytes for p in trained["generator"].values())
        step = _Step(config, networks, perceptual, updaters)
        meter.reset()
        flops = step.take(meter)
        peak = meter.peak
        tagger = _tagger(config)
        if tagger is not None:
            with _counted(flops, meter, "tagger", config.optim.accumulate), torch.no_grad():
                side = tagger.config.image_size
                tagger(torch.empty(config.batch, 3, side, side))
    memory = {
        "frozen weights": weights,
        "tagger": sum(2 * p.numel() for p in tagger.parameters()) if tagger is not None else 0,
        "trained weights, Adam's moments, average": lasting,
        "gradients": gradients,
        "activations": peak - weights - lasting - gradients,
    }
    counts = {name: sum(p.numel() for p in parameters.values()) for name, parameters in trained.items()}
    return Cost(counts, memory, flops, config.batch * config.optim.accumulate)


def fake_base(name: str, dtype: torch.dtype) -> Base:
    """The base of that name from its configurations; SD 2.1-base's for what is no folder, as a file or a hub id.

    Raises BaseModelError for configurations that cannot be read.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = PACKAGED.get(name, Path(name))
    folder = folder if (folder / "unet" / "config.json").is_file() else SD21_BASE
    configs = {part: read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder")}
    networks: Any = (  # diffusers names a pair of results, too
        AutoencoderKL.from_config(configs["vae"]),
        UNet2DConditionModel.from_config(configs["unet"]),
        CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])),
    )
    for network in networks:
        nn.Module.to(network, dtype).requires_grad_(
            False
        ).eval()  # diffusers' own warns of layers it would keep
    vae, unet, text = networks
    schedule = NoiseSchedule.from_config(read_json(folder / "scheduler" / "scheduler_config.json"))
    encoder = ClipPromptEncoder.from_folder(folder / "tokenizer", text)
    return Base(DiffusersVAE(vae), DiffusersUNet(unet), encoder, schedule, name)


class _Step:
    """The trainer's step with counters around its parts."""

    def __init__(
        self,
        config: TrainConfig,
        networks: Networks,
        perceptual: nn.Module | None,
        updaters: dict[str, Updater],
    ) -> None:
        kind, self.config, self.updaters = config.model.regulariser, config, updaters
        self.generator = GeneratorStep(networks, config.loss, kind, perceptual, config.precision)
        self.regulariser = RegulariserStep(networks, config.loss, kind, config.precision)
        base, side, batch = networks.base, config.data.resolution, config.batch
        if side % base.vae.downscale:
            raise OptionError(f"The resolution {side} must be a multiple of {base.vae.downscale} px.")
        latents = (batch, base.vae.latent_channels, side // base.vae.downscale, side // base.vae.downscale)
        text = base.text.module.config
        self.image = torch.empty(batch, 3, side, side)
        self.embeds = torch.empty(batch, text.max_position_embeddings, text.hidden_size)
        noise, timesteps = torch.empty(latents), torch.zeros(batch, dtype=torch.long)
        self.draws = Draws(noise, timesteps, torch.empty_like(noise))

    def take(self, meter: Meter) -> dict[str, int]:
        """One micro-batch for each part; how often a step does it is multiplied."""
        flops: dict[str, int] = {}
        optim = self.config.optim
        with _counted(flops, meter, "generator", optim.accumulate):
            out = self.generator(self.image, self.image, self.embeds, self.embeds, self.draws)
        with _counted(flops, meter, "its backward pass", optim.accumulate):
            self.updaters["generator"].backward(out["loss"])
        latents, image = out.pop("latents"), out.pop("image")
        out.clear()
        self.updaters["generator"].step()
        if "regulariser" in self.updaters:
            times = optim.accumulate * optim.regulariser_steps
            with _counted(flops, meter, "regulariser", times):
                loss = self.regulariser(latents, image, self.image, self.embeds, self.draws)
            with _counted(flops, meter, "its own backward pass", times):
                self.updaters["regulariser"].backward(loss)
            self.updaters["regulariser"].step()
        return flops


def _warmed(parameters: dict[str, nn.Parameter], config: TrainConfig) -> Updater:
    """An updater that has its moments."""
    updater = Updater(parameters, 1e-4, config.optim, config.steps, ema=config.optim.ema)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    updater.step()
    return updater


def _tagger(config: TrainConfig) -> TaggerNetwork | None:
    """RAM, where the run tags its crops with a file of it."""
    kind, _, name = config.data.captions.partition(":")
    wanted = kind == "tagger" and Path(name).suffix in (".pth", ".safetensors")
    return TaggerNetwork(TaggerConfig()).eval() if wanted else None


def _perceptual(config: TrainConfig) -> nn.Module | None:
    """What the generator is trained on beside MSE, its backbone without trained weights where those are no package."""
    loss = config.loss
    if not loss.uses("perceptual") or loss.perceptual_kind == "none":
        return None
    _, _, variant = loss.perceptual_kind.partition("-")
    weights = None
    if variant.startswith(("vgg", "alex")):
        import torchvision

        network = torchvision.models.vgg16 if variant.startswith("vgg") else torchvision.models.alexnet
        with torch.device("meta"):
            shapes = network().state_dict()
        weights = {
            key: torch.zeros(tensor.shape) for key, tensor in shapes.items() if key.startswith("features.")
        }
    return perceptual_loss(loss.perceptual_kind, weights)


@contextmanager
def _fake_modules() -> Iterator[None]:
    """Modules of tensors without numbers can be moved and cast."""
    with mock.patch.object(nn.Module, "_apply", _converted):
        yield


def _converted(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply by new parameters: torch's own changes the old ones, which fake tensors do not let."""
    for child in module.children() if recurse else ():
        _converted(child, convert)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(convert(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = convert(buffer)
    return module


@contextmanager
def _counted(flops: dict[str, int], meter: Meter, part: str, times: int) -> Iterator[None]:
    before = meter.flops
    yield
    flops[part] = (meter.flops - before) * times
