"""The networks of a run: one base with the adapters of the generator and of the regulariser on it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from osediff_core.backends.find_base import find_base
from osediff_core.backends.load_base import Base, load_base
from osediff_core.errors import OptionError
from osediff_core.generator import OneStepGenerator
from osediff_core.weights.checkpoint import read_weights
from osediff_core.weights.formats import osediff
from osediff_core.weights.formats.osediff import ADAPTER_OF_GROUP, VAE_ADAPTER, lora_scale
from osediff_core.weights.lora_targets import vae_targets
from osediff_core.weights.one_step_weights import OneStepWeights

from . import pisa
from .adapters import (
    REGULARISER_ADAPTER,
    attach_peft,
    attach_regulariser,
    copy_into_peft,
    weights_from_peft,
)
from .config import TRAINED_REGULARISERS, ModelConfig
from .discriminator import Discriminator
from .losses.projected import ProjectedDiscriminator
from .ranks import at_ranks
from .roles import GENERATOR, REGULARISER, TEACHER, OwnConv, RoleSwitch, checkpoint_gradients, fp32_norms
from .run.errors import TrainingError

OF_BASE = "base"  # as model.start_from: the weights that lie beside the base, as the embedded one has


@dataclass
class Networks:
    """One frozen base; what is trained, by name; and the switches between roles.

    generator: the core's, over the base's networks with adapters on. projected: a discriminator on images, if any.
    generator_parameters, regulariser_parameters: name -> fp32 parameter; nothing else has requires_grad.
    """

    base: Base
    generator: OneStepGenerator
    unet_roles: RoleSwitch
    vae_roles: RoleSwitch
    generator_parameters: dict[str, nn.Parameter]
    regulariser_parameters: dict[str, nn.Parameter]
    discriminator: Discriminator | None
    projected: ProjectedDiscriminator | None = None
    method: str = osediff.METHOD

    def judge_images(self, projected: ProjectedDiscriminator) -> None:
        """Add a discriminator on images, which is trained together with the regulariser."""
        self.projected = projected
        heads = {name: p for name, p in projected.named_parameters() if p.requires_grad}
        self.regulariser_parameters |= {f"projected/{name}": parameter for name, parameter in heads.items()}

    def predict(self, role: str, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The UNet's noise prediction in a role."""
        with self.unet_roles.role(role):
            return self.base.unet(latents, timesteps, prompt_embeds)

    def encode_untuned(self, image: Tensor) -> Tensor:
        """The base's own encoder, posterior mode: (B, 3, H, W) in [-1, 1] -> scaled latents, with gradients."""
        with self.vae_roles.role(TEACHER):
            return self.generator.encode(image)

    def weights(self, metadata: dict[str, str]) -> OneStepWeights:
        """Copies of the generator's weights, as the core's files hold them."""
        unet = self.base.unet.module
        if self.method == pisa.METHOD:
            return pisa.weights_of(unet, self.generator.timestep, metadata)
        conv_in: Any = unet.conv_in.base_layer  # peft's layer holds it
        return weights_from_peft(
            unet,
            self.base.vae.module,
            {"timestep": str(self.generator.timestep), **metadata},
            conv_in={"weight": conv_in.weight, "bias": conv_in.bias},
        )


def build_networks(config: ModelConfig, device: torch.device, seed: int = 0) -> Networks:
    """Load the base and put everything that is trained on it.

    Raises BaseModelError for a base that cannot be used (a v-prediction one among them), CheckpointError for
    `start_from` weights that do not fit, OptionError for a timestep outside the schedule.
    """
    weights = _start(config, seed)  # before the base, which takes longer to read
    return equip(load_base(config.base, config.base_dtype, device), config, device, seed, weights)


def equip(
    base: Base,
    config: ModelConfig,
    device: torch.device,
    seed: int = 0,
    weights: OneStepWeights | None = None,
) -> Networks:
    """Put everything that is trained on a base, which is changed by it; raises as `build_networks`.

    weights: what is trained further.
    """
    unet, vae = base.unet.module, base.vae.module
    base.text.module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        torch.manual_seed(seed)  # peft draws the first factors from the global generator
        groups = _attach(unet, vae, config)
        discriminator = Discriminator(unet).to(device) if config.regulariser == "gan" else None
    of_pisa = config.method == pisa.METHOD
    if of_pisa and weights is not None:
        pisa.copy_into(weights, unet)
    elif not of_pisa:
        unet.conv_in.base_layer = OwnConv(cast("nn.Conv2d", unet.conv_in.base_layer))
        if weights is not None:
            copy_into_peft(weights, unet, vae)
    if config.base_dtype != "fp32":
        fp32_norms(unet)
        fp32_norms(vae)
    timestep = config.timestep if config.timestep is not None else weights.timestep if weights else None
    schedule = base.schedule
    if of_pisa:
        schedule = replace(
            schedule, prediction_type="residual"
        )  # the scores stay those of the base's schedule
        timestep = pisa.TIMESTEP if timestep is None else timestep
    generator = OneStepGenerator(base.vae, base.unet, base.text, schedule, timestep)
    unet_roles, vae_roles = _roles(unet, vae, groups, config)
    if config.gradient_checkpointing:
        checkpoint_gradients(unet, unet_roles)
        checkpoint_gradients(vae, vae_roles)
    generator_parameters, regulariser_parameters = _choose_trained(unet, vae, unet_roles, config)
    if discriminator is not None:
        heads = discriminator.head.named_parameters()
        regulariser_parameters |= {f"discriminator/{name}": parameter for name, parameter in heads}
    return Networks(
        base,
        generator,
        unet_roles,
        vae_roles,
        generator_parameters,
        regulariser_parameters,
        discriminator,
        method=config.method,
    )


def _start(config: ModelConfig, seed: int) -> OneStepWeights | None:
    """What is trained further, at the ranks of now; None to begin from nothing. Raises CheckpointError, OptionError."""
    if config.start_from is None:
        return None
    path: str | Path = config.start_from
    if path == OF_BASE:
        own = find_base(config.base).default_weights
        if own is None:
            raise OptionError(
                f"The base {config.base} has no weights of its own; give a file as model.start_from."
            )
        path = own
    weights = read_weights(path)
    if weights.method != osediff.METHOD:
        return weights  # which the adapters then refuse
    if config.tune_vae in ("none", "decoder"):
        kept = {
            name: pair
            for name, pair in weights.vae_lora.items()
            if not name.startswith(("encoder.", "quant"))
        }
        weights = replace(weights, vae_lora=osediff.lora(kept, weights.rank_vae), vae_modules=list(kept))
    return at_ranks(weights, config.rank_unet, config.rank_vae, seed)


def _attach(unet: UNet2DConditionModel, vae: AutoencoderKL, config: ModelConfig) -> dict[str, list[str]]:
    """Put all adapters on; the UNet's groups."""
    if config.method == pisa.METHOD:
        vae.requires_grad_(False)
        groups = pisa.attach(unet, config.rank_unet)
    else:
        names = [name for name, _ in vae.named_parameters()]
        groups, _ = attach_peft(
            unet, vae, config.rank_unet, config.rank_vae, vae_modules=_vae_modules(names, config.tune_vae)
        )
    # The generator's draws come first, so that its start does not depend on the regulariser.
    if config.lora_init == "fan_in":
        for module, rank in ((unet, config.rank_unet), (vae, config.rank_vae)):
            _start_wide(module, rank)
    if config.regulariser in TRAINED_REGULARISERS:
        attach_regulariser(unet, groups, config.rank_regulariser)
    return groups


def _vae_modules(names: list[str], halves: str) -> list[str]:
    """The official choice for the encoder; for the decoder the modules of the same kinds."""
    encoder = vae_targets(names)
    mirrored = {
        name.replace("decoder.", "encoder.", 1): name for name in names if name.startswith("decoder.")
    }
    decoder = [mirrored[f"{module}.weight"].removesuffix(".weight") for module in vae_targets(mirrored)]
    chosen = {"none": [], "encoder": encoder, "decoder": decoder, "both": encoder + decoder}
    return chosen[halves]


def _start_wide(module: nn.Module, rank: int) -> None:
    """Draw A so that scale * A has a fresh layer's variance: at high ranks peft's start makes first updates tiny."""
    for name, parameter in module.named_parameters():
        if ".lora_A." in name:
            nn.init.normal_(parameter, std=1 / (lora_scale(rank) * math.sqrt(parameter[0].numel())))


def _roles(
    unet: nn.Module, vae: nn.Module, groups: dict[str, list[str]], config: ModelConfig
) -> tuple[RoleSwitch, RoleSwitch]:
    used = [group for group, modules in groups.items() if modules]
    trained = {"vsd": used, "vsd-pixel": used, "gan": ["encoder", "others"]}.get(config.regulariser, [])
    if config.official == "mid":
        trained = [group for group in trained if group == "others"]
    for_unet = {
        GENERATOR: pisa.acting(config.stage) if config.stage else [ADAPTER_OF_GROUP[group] for group in used],
        TEACHER: [],
        REGULARISER: [REGULARISER_ADAPTER[group] for group in trained],
    }
    for_vae = {GENERATOR: [VAE_ADAPTER], TEACHER: []}
    return RoleSwitch(unet, for_unet), RoleSwitch(vae, for_vae)


def _choose_trained(
    unet: nn.Module, vae: nn.Module, unet_roles: RoleSwitch, config: ModelConfig
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Sets requires_grad everywhere: (the generator's, the regulariser's) parameters by name, in fp32."""
    ours, its = {}, {}
    if config.stage:
        generator_adapters = set(pisa.adapters_of(config.stage))
    else:
        generator_adapters = {*ADAPTER_OF_GROUP.values(), VAE_ADAPTER}
    regulariser_adapters = set(unet_roles.adapters[REGULARISER])
    for part, module in (("unet", unet), ("vae", vae)):
        for name, parameter in module.named_parameters():
            adapter = name.split(".")[-2] if ".lora_" in name else None
            own_conv = part == "unet" and not config.stage and name.startswith("conv_in.base_layer.")
            if adapter in generator_adapters or own_conv:
                ours[f"{part}/{name}"] = parameter
            elif adapter in regulariser_adapters:
                its[f"{part}/{name}"] = parameter
            parameter.requires_grad_(f"{part}/{name}" in ours or f"{part}/{name}" in its)
    for parameter in (*ours.values(), *its.values()):
        parameter.data = parameter.data.float()
    if not any(name.startswith("unet/") for name in ours):
        raise TrainingError(
            f"The base {config.base} has no layer that OSEDiff adapts; use a Stable Diffusion UNet."
        )
    return ours, its
