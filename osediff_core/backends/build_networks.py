"""Networks from configs and mapped tensors, with no more memory than the weights themselves take."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from ..errors import BaseModelError, counted, first_line
from ..weights.tensor_file import Tensors, shapes_of
from .read_base import RawBase

if TYPE_CHECKING:
    from transformers import CLIPTextModel

logger = logging.getLogger(__name__)

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION_NAME = re.compile(r"\.(query|key|value|proj_attn)\.(weight|bias)$")
_CLIP_PREFIX = "text_model."


class Networks(TypedDict):
    """The parts of a base."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel


def build_networks(raw: RawBase, name: str, dtype: torch.dtype | None, device: torch.device) -> Networks:
    """Build and fill unet, vae and text_encoder: in eval mode, without gradients, cast tensor by tensor.

    Every tensor of every part is checked before the first is loaded. Where dtype and device are the file's
    (the CPU; None is the file's dtype), the weights stay mapped: the file must not be overwritten while they
    are in use.
    Raises BaseModelError with the missing, unexpected and misshapen tensors.
    """
    networks = {part: _on_meta(part, config, name) for part, config in raw.configs.items()}
    for part, network in networks.items():
        raw.tensors[part] = modern_names(raw.tensors[part], network)
    complaints = [c for part, network in networks.items() if (c := misfits(network, raw.tensors[part], part))]
    if complaints:
        raise BaseModelError(
            f"The base {name} does not hold the weights that its configuration asks for: "
            f"{'; '.join(complaints)}; download it again or use SD 2.1-base."
        )
    for part, network in networks.items():
        _fill(network, raw.tensors.pop(part), dtype, device)
    return cast("Networks", networks)


def modern_names(tensors: Tensors, network: nn.Module) -> Tensors:
    """The tensors under the names that this network uses now.

    Handles the VAE attention's names of early diffusers (also as 1x1 convolutions), CLIP with or without "text_model."
    (the prefix came and went between versions of transformers), and position_ids, which hold nothing.
    """
    wanted = network.state_dict()
    prefixed = any(key.startswith(_CLIP_PREFIX) for key in wanted)
    is_text = prefixed or any(key.startswith(_CLIP_PREFIX) for key in tensors)
    renamed: Tensors = {}
    for key, tensor in tensors.items():
        if key.endswith("position_ids"):
            continue
        if is_text:
            key = key.removeprefix(_CLIP_PREFIX)
            key = _CLIP_PREFIX + key if prefixed else key
        elif key not in wanted:
            key = _OLD_ATTENTION_NAME.sub(lambda m: f".{_OLD_ATTENTION[m[1]]}.{m[2]}", key)
        if key in wanted and wanted[key].dim() == 2 and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        renamed[key] = tensor
    return renamed


def misfits(network: nn.Module, tensors: Tensors, part: str) -> str:
    """The number of tensors that do not fit and the first of them, as a phrase; empty if all fit."""
    wanted = shapes_of(network.state_dict())
    found = shapes_of(tensors)
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "misshapen": [
            f"{key} {list(found[key])} instead of {list(wanted[key])}"
            for key in sorted(wanted.keys() & found.keys())
            if wanted[key] != found[key]
        ],
    }
    if not any(kinds.values()):
        return ""
    logger.debug("all tensors of the %s that do not fit: %s", part, kinds)
    return f"{part}: {counted(kinds)}"


def _on_meta(part: str, config: dict[str, Any], name: str) -> nn.Module:
    """The network of a config with shapes but no memory."""
    from transformers import CLIPTextConfig, CLIPTextModel

    makers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
    }
    try:
        with torch.device("meta"):
            return makers[part](config)
    except Exception as error:  # diffusers and transformers raise many kinds; all mean an impossible value
        raise BaseModelError(
            f"The configuration of the base {name} makes no {part} ({first_line(error)}); download it again."
        ) from error


def _fill(network: nn.Module, tensors: Tensors, dtype: torch.dtype | None, device: torch.device) -> None:
    for key in list(tensors):
        # One at a time, and the source is dropped, so that a cast never holds two copies of a part.
        tensors[key] = tensors.pop(key).to(device=device, dtype=dtype)
    network.load_state_dict(tensors, strict=True, assign=True)
    for key, buffer in list(network.named_buffers()):
        if buffer.is_meta:  # CLIP's position_ids are counted, not stored
            owner = network.get_submodule(key.rpartition(".")[0])
            positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            owner.register_buffer(key.rpartition(".")[2], positions, persistent=False)
    network.requires_grad_(False).eval()
