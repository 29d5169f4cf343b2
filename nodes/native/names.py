"""diffusers' names of layers, which OSEDiff's files use, as ComfyUI's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import comfy.diffusers_convert
import comfy.utils
import torch
from torch import Tensor

_CONVERTER_LEVELS = 4  # of the VAE that ComfyUI's converter assumes


def unet_names(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' tensor name -> ComfyUI's, within the diffusion model; {} if it is not Stable Diffusion's UNet."""
    counts = [count + 1 for count in unet_config.get("num_res_blocks", ())]
    names = comfy.utils.unet_to_diffusers(unet_config)
    for part, sizes in (("down", counts), ("up", counts[::-1])):
        for level, size in enumerate(sizes):
            # ComfyUI's own map takes all levels before this one to be of its size
            names = _renumbered(names, f"{part}_blocks.{level}.", sum(sizes[:level]) - size * level)
    return names


def _renumbered(names: dict[str, str], lead: str, shift: int) -> dict[str, str]:
    """The same, with the number of the block moved on where the key begins with `lead`."""
    return {
        key: re.sub(r"\d+", lambda found: str(int(found[0]) + shift), name, count=1)
        if key.startswith(lead)
        else name
        for key, name in names.items()
    }


def convert_vae(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A diffusers AutoencoderKL's tensors under ComfyUI's names; attention layers become 1x1 convolutions.

    levels: how many resolutions it has. ComfyUI's converter knows four and counts the decoder's from the end.
    """
    missing = _CONVERTER_LEVELS - levels
    converted = comfy.diffusers_convert.convert_vae_state_dict(dict(tensors))

    def count_again(match: re.Match[str]) -> str:
        return f"decoder.up.{int(match[1]) - missing}."

    return {re.sub(r"^decoder\.up\.(\d+)\.", count_again, key): tensor for key, tensor in converted.items()}


def vae_names(modules: list[str], levels: int) -> dict[str, str]:
    """diffusers' module name of an AutoencoderKL -> the name of its weight in ComfyUI."""
    numbered = {f"{name}.weight": torch.tensor([index]) for index, name in enumerate(modules)}
    return {modules[int(number)]: name for name, number in convert_vae(numbered, levels).items()}
