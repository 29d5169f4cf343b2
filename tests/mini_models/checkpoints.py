"""OSEDiff checkpoints put together by hand as the official code saves them, with values of the caller's choice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

RANK = 4
# what the official code looks for in names of the VAE's encoder; a name that holds two is listed twice
_VAE_PATTERNS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0".split()


def official_unet_lists(unet: nn.Module) -> dict[str, list[str]]:
    """The modules by their kind, told apart without any name pattern: what the rules must come to."""
    lists: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
    groups = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder", "conv_out": "decoder"}
    for name, module in unet.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "time_emb" not in name:
            lists[groups.get(name.split(".")[0], "others")].append(name)
    return lists


def official_vae_list(vae: nn.Module) -> list[str]:
    """With the official code's repetitions: ten of quant_conv."""
    return [
        name
        for name, module in vae.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        for pattern in _VAE_PATTERNS
        if (name.startswith("encoder.") and pattern in name) or name == "quant_conv"
    ]


def official_content(
    unet: nn.Module,
    vae: nn.Module,
    rank: int = RANK,
    values: Callable[[str, tuple[int, ...]], Tensor] | None = None,
) -> dict[str, object]:
    """An official checkpoint for these networks, in the order in which the official code saves one.

    values: (name, shape) -> the tensor; None draws random ones of about 0.1.
    """
    values = values or _random()

    def factors(network: nn.Module, adapters: dict[str, str]) -> dict[str, Tensor]:
        tensors = {}
        for name, module in network.named_modules():
            if name in adapters:
                out, inner, *kernel = module.weight.shape
                for factor, shape in (
                    ("A", (rank, inner, *kernel)),
                    ("B", (out, rank, *(1 for _ in kernel))),
                ):
                    key = f"{name}.lora_{factor}.{adapters[name]}.weight"
                    tensors[key] = values(key, shape)
        return tensors

    lists, vae_list = official_unet_lists(unet), official_vae_list(vae)
    conv_in = {f"conv_in.base_layer.{name}": p.shape for name, p in unet.conv_in.named_parameters()}
    adapters = {name: f"default_{group}" for group, names in lists.items() for name in names}
    return {
        "vae_lora_encoder_modules": vae_list,
        **{f"unet_lora_{group}_modules": names for group, names in lists.items()},
        "rank_unet": rank,
        "rank_vae": rank,
        "state_dict_unet": {key: values(key, shape) for key, shape in conv_in.items()}
        | factors(unet, adapters),
        "state_dict_vae": factors(vae, dict.fromkeys(vae_list, "default_encoder")),
    }


def _random() -> Callable[[str, tuple[int, ...]], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda _, shape: torch.randn(shape, generator=generator) * 0.1
