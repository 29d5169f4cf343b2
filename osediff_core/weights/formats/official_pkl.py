"""The official OSEDiff .pkl: lists of modules, ranks, and the state dicts of peft's adapters (its `save_model`)."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import CheckpointError
from ..one_step_weights import LoRAPair, OneStepWeights
from ..tensor_file import TensorFile
from ..write_file import torch_bytes
from . import osediff
from .format import Format
from .osediff import ADAPTER_OF_GROUP, CONV_IN, DEFAULT_METADATA, VAE_ADAPTER

_UNET_LISTS = {
    "encoder": "unet_lora_encoder_modules",
    "decoder": "unet_lora_decoder_modules",
    "others": "unet_lora_others_modules",
}
_QUANT_CONV = "quant_conv"
_VAE_LIST = "vae_lora_encoder_modules"
_KEYS = {_VAE_LIST, *_UNET_LISTS.values(), "rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae"}


def recognise(file: TensorFile) -> bool:
    """By the keys of its dict."""
    return isinstance(file.content, Mapping) and set(file.content) >= _KEYS


def read(file: TensorFile) -> OneStepWeights:
    """The weights; tensors against the file's own lists are kept in `missing` and `unexpected`."""
    content = file.content
    groups = {group: osediff.module_names(file.path, key, content[key]) for group, key in _UNET_LISTS.items()}
    vae_modules = osediff.module_names(file.path, _VAE_LIST, content[_VAE_LIST])
    unet, vae = (osediff.state_dict(file, key) for key in ("state_dict_unet", "state_dict_vae"))
    conv_in, rest = {}, {}
    for name, tensor in unet.items():  # "conv_in.weight" is how conv_in is called where no adapter wraps it
        short = name.removeprefix("conv_in.").removeprefix("base_layer.")
        if name.startswith("conv_in.") and short in CONV_IN and short not in conv_in:
            conv_in[short] = tensor
        else:
            rest[name] = tensor
    adapters = {module: ADAPTER_OF_GROUP[group] for group, modules in groups.items() for module in modules}
    of_unet, missing, unexpected = osediff.pairs(rest, adapters, osediff.peft_key)
    of_vae, vae_missing, vae_unexpected = osediff.pairs(
        vae, dict.fromkeys(vae_modules, VAE_ADAPTER), osediff.peft_key
    )
    missing = [f"conv_in.base_layer.{name}" for name in CONV_IN if name not in conv_in] + missing
    return OneStepWeights(
        osediff.METHOD,
        (osediff.lora(of_unet, osediff.rank(file.path, content, "rank_unet")),),
        osediff.lora(of_vae, osediff.rank(file.path, content, "rank_vae")),
        conv_in,
        {**DEFAULT_METADATA, "base": osediff.guess_base(of_unet, conv_in)},
        str(file.path),
        [f"unet {name}" for name in missing] + [f"vae {name}" for name in vae_missing],
        [f"unet {name}" for name in unexpected] + [f"vae {name}" for name in vae_unexpected],
        groups,
        vae_modules,
    )


def write(weights: OneStepWeights) -> bytes:
    """The official code puts an adapter on each of the four lists, and peft refuses an empty one. So a VAE that was
    left as it is gets an adapter that adds zero.

    Raises CheckpointError for weights that its readers would misunderstand or refuse.
    """
    osediff.check_writable(weights)
    empty = [group for group in _UNET_LISTS if not weights.unet_groups.get(group)]
    if empty:
        raise CheckpointError(
            f"{weights.source} has no LoRA in the UNet's group {empty[0]}, which the official code requires; "
            "write .safetensors instead."
        )
    if set(weights.conv_in) != set(CONV_IN):
        raise CheckpointError(
            f"{weights.source} has no conv_in of its own, which the official format requires; "
            "write .safetensors instead."
        )
    for key in ("timestep", "prediction_type"):
        if weights.metadata.get(key, DEFAULT_METADATA[key]) != DEFAULT_METADATA[key]:
            raise CheckpointError(
                f"{weights.source} is for {key.replace('_', ' ')} {weights.metadata[key]}, but every reader of the "
                f"official format assumes {DEFAULT_METADATA[key]}; write .safetensors instead."
            )
    group_of, unet, vae = weights.group_of, {}, {}
    base = "conv_in.base_layer" if "conv_in" in weights.unet_lora else "conv_in"
    unet.update({f"{base}.{name}": weights.conv_in[name] for name in CONV_IN})
    for module, pair in weights.unet_lora.items():
        for factor, tensor in zip("AB", pair, strict=True):
            unet[osediff.peft_key(module, factor, ADAPTER_OF_GROUP[group_of[module]])] = tensor
    of_vae = weights.vae_lora or {_QUANT_CONV: _zeros(weights)}
    for module, pair in of_vae.items():
        for factor, tensor in zip("AB", pair, strict=True):
            vae[osediff.peft_key(module, factor, VAE_ADAPTER)] = tensor
    return torch_bytes(
        {  # in the official order
            _VAE_LIST: list(weights.vae_modules) or [_QUANT_CONV],
            **{key: list(weights.unet_groups[group]) for group, key in _UNET_LISTS.items()},
            "rank_unet": weights.rank_unet,
            "rank_vae": weights.rank_vae,
            "state_dict_unet": unet,
            "state_dict_vae": vae,
        }
    )


def _zeros(weights: OneStepWeights) -> LoRAPair:
    """Factors for the VAE's 1x1 quant_conv, which has mean and deviation of each latent channel that conv_in takes."""
    conv_in, rank = weights.conv_in["weight"], weights.rank_vae
    channels = 2 * conv_in.shape[1]
    return LoRAPair(conv_in.new_zeros(rank, channels, 1, 1), conv_in.new_zeros(channels, rank, 1, 1))


FORMAT = Format(
    osediff.METHOD, "OSEDiff weights in the official format", recognise, read, write, ".pkl", osediff.ABOUT
)
