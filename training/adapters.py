"""OSEDiff's LoRA as peft adapters, for training: put them on as the official code does, and collect them again.

peft is imported only when adapters are put on, so that inference does not need it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from osediff_core.errors import CheckpointError, some_of
from osediff_core.weights.formats import osediff
from osediff_core.weights.formats.osediff import ADAPTER_OF_GROUP, DEFAULT_METADATA, VAE_ADAPTER
from osediff_core.weights.lora_targets import unet_targets, vae_targets
from osediff_core.weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights, common_rank

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

REGULARISER_ADAPTER = {group: f"regulariser_{group}" for group in ADAPTER_OF_GROUP}
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.(?P<adapter>[^.]+)\.weight")


def attach_peft(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    rank_unet: int = 4,
    rank_vae: int = 4,
    *,
    init: bool | Literal["gaussian"] = "gaussian",
    vae_modules: Iterable[str] | None = None,
) -> tuple[dict[str, list[str]], list[str]]:
    """Put the official adapters on diffusers models, in place: (UNet groups, VAE list), as checkpoints name them.

    The UNet gets default_encoder, default_decoder and default_others, all three active and trainable
    (`add_adapter` alone would leave only the last one active, which is what the official regulariser suffers
    from); the VAE gets default_encoder, on `vae_modules` instead of the official choice if given, or none if
    that is empty. lora_alpha is left at peft's 8. `init` is peft's init_lora_weights: "gaussian" draws A with
    standard deviation 1 / rank, and B is 0. All base weights are frozen: a trainer that trains
    `unet.conv_in.base_layer` must unfreeze it.
    """
    from peft import LoraConfig

    groups = unet_targets(name for name, _ in unet.named_parameters())
    chosen = (
        vae_targets(name for name, _ in vae.named_parameters()) if vae_modules is None else list(vae_modules)
    )
    for model in (unet, vae):
        model.requires_grad_(False)
    for group, modules in groups.items():
        if modules:
            config = LoraConfig(r=rank_unet, init_lora_weights=init, target_modules=modules)
            unet.add_adapter(config, adapter_name=ADAPTER_OF_GROUP[group])
    unet.set_adapter([ADAPTER_OF_GROUP[group] for group, modules in groups.items() if modules])
    if chosen:
        config = LoraConfig(r=rank_vae, init_lora_weights=init, target_modules=chosen)
        vae.add_adapter(config, adapter_name=VAE_ADAPTER)
    return groups, chosen


def attach_regulariser(unet: UNet2DConditionModel, groups: Mapping[str, list[str]], rank: int) -> None:
    """Put the regulariser's adapters beside the generator's, on the same modules, by REGULARISER_ADAPTER's names.

    groups: what `attach_peft` gave. Which adapters act afterwards is for the caller to say.
    """
    from peft import LoraConfig

    for group, modules in groups.items():
        if modules:
            config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules)
            unet.add_adapter(config, adapter_name=REGULARISER_ADAPTER[group])


def weights_from_peft(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    metadata: Mapping[str, str] | None = None,
    *,
    conv_in: Mapping[str, Tensor] | None = None,
) -> OneStepWeights:
    """Copies, on the CPU, of the official adapters' tensors and conv_in's base weights of models in training.

    Adapters of other names (a regulariser on the same UNet) are left out. `conv_in` {"weight", "bias"} takes
    the place of the UNet's own if the trainer keeps the generator's elsewhere. `metadata` is added to the
    defaults (base, timestep, prediction_type, anything else). Raises CheckpointError if there are no such
    adapters or their ranks differ.
    """
    adapters = set(ADAPTER_OF_GROUP.values())
    unet_lora, unet_adapter = _collect(unet, adapters)
    vae_lora, _ = _collect(vae, {VAE_ADAPTER})
    if not unet_lora and not vae_lora:
        raise CheckpointError("The models carry no OSEDiff adapters; put them on with attach_peft first.")
    group_of_adapter = {adapter: group for group, adapter in ADAPTER_OF_GROUP.items()}
    groups: dict[str, list[str]] = {group: [] for group in ADAPTER_OF_GROUP}
    for name in dict.fromkeys(_plain_modules(unet)):
        if name in unet_lora:
            groups[group_of_adapter[unet_adapter[name]]].append(name)
    vae_names = [f"{name}.weight" for name in _plain_modules(vae)]
    vae_modules = [name for name in vae_targets(vae_names) if name in vae_lora]
    vae_modules += [name for name in vae_lora if name not in set(vae_modules)]
    if conv_in is None:
        conv_in = dict(getattr(unet.conv_in, "base_layer", unet.conv_in).named_parameters())
    own_conv_in = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in conv_in.items()
    }
    base = osediff.guess_base(unet_lora, own_conv_in)
    return OneStepWeights(
        osediff.METHOD,
        (_lora(unet_lora, "UNet"),),
        _lora(vae_lora, "VAE"),
        own_conv_in,
        {**DEFAULT_METADATA, "base": base, **(metadata or {})},
        "the network under training",
        unet_groups=groups,
        vae_modules=vae_modules,
    )


@torch.no_grad()
def copy_into_peft(weights: OneStepWeights, unet: nn.Module, vae: nn.Module) -> None:
    """Set the adapters and conv_in of models prepared by `attach_peft` to these weights, to train them further.

    Raises CheckpointError, before anything changes, naming every tensor that has no place or another shape.
    """
    if weights.method != osediff.METHOD:
        raise CheckpointError(
            f"{weights.source} is of the method {weights.method}; start from OSEDiff weights, as those are trained."
        )
    moves: list[tuple[str, Tensor, Tensor | None]] = []
    own = dict(unet.named_parameters())
    for module, group in weights.group_of.items():
        for factor, tensor in zip("AB", weights.unet_lora[module], strict=True):
            name = f"{module}.lora_{factor}.{ADAPTER_OF_GROUP[group]}.weight"
            moves.append((f"unet {name}", tensor, own.get(name)))
    for name, tensor in weights.conv_in.items():
        target = own.get(f"conv_in.base_layer.{name}", own.get(f"conv_in.{name}"))
        moves.append((f"unet conv_in.{name}", tensor, target))
    own = dict(vae.named_parameters())
    for module, pair in weights.vae_lora.items():
        for factor, tensor in zip("AB", pair, strict=True):
            name = f"{module}.lora_{factor}.{VAE_ADAPTER}.weight"
            moves.append((f"vae {name}", tensor, own.get(name)))
    faults = [name for name, tensor, target in moves if target is None or target.shape != tensor.shape]
    if faults:
        raise CheckpointError(
            f"{weights.source} does not fit the adapters in training; use the same base and rank "
            f"(without a place or of another shape: {some_of(sorted(faults))})."
        )
    for _, tensor, target in moves:
        assert target is not None
        target.copy_(tensor)


def collect_pairs(model: nn.Module, adapters: set[str]) -> dict[str, LoRAPair]:
    """Copies, on the CPU, of the pairs of these adapters, in state-dict order."""
    return _collect(model, adapters)[0]


def _collect(model: nn.Module, adapters: set[str]) -> tuple[dict[str, LoRAPair], dict[str, str]]:
    """(pairs in state-dict order, adapter by module)."""
    factors: dict[str, dict[str, Tensor]] = {}
    adapter_of = {}
    for key, tensor in model.state_dict().items():
        match = _KEY.fullmatch(key)
        if match and match["adapter"] in adapters:
            copied = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            factors.setdefault(match["module"], {})[match["factor"]] = copied
            adapter_of[match["module"]] = match["adapter"]
    return {module: LoRAPair(pair["A"], pair["B"]) for module, pair in factors.items()}, adapter_of


def _plain_modules(model: nn.Module) -> list[str]:
    """Names of modules with a weight, in parameter order, as they are called without adapters."""
    weights = (
        name for name, _ in model.named_parameters() if ".lora_" not in name and name.endswith(".weight")
    )
    return [name.removesuffix(".weight").removesuffix(".base_layer") for name in weights]


def _lora(pairs: Mapping[str, LoRAPair], part: str) -> LoRASet:
    rank = common_rank(pairs)
    odd = [name for name, pair in pairs.items() if pair.A.shape[0] != rank]
    if odd:
        raise CheckpointError(
            f"The {part}'s adapters differ in rank ({', '.join(odd)}), which the formats cannot hold."
        )
    # a part without adapters has no rank; the formats want a number, and 4 is the official one
    return osediff.lora(pairs, rank or 4)
