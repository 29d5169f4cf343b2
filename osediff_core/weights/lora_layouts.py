"""The UNet's update as a LoRA file of other programs: diffusers' `load_lora_weights`, ComfyUI's own Load LoRA.

These know one LoRA set of scale 1 for a UNet, so several sets become one, and scales go into B. They know no replaced
`conv_in` either: its update is written as a LoRA of the full rank (in * kh * kw, 36 for four latent channels), whose A
copies the window under the kernel and whose B is the update. The VAE's LoRA has no place in them; `write_vae` writes
the whole VAE with it merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import CheckpointError
from .formats import facts_of
from .one_step_weights import LoRAPair, OneStepWeights
from .write_file import sorted_safetensors, write_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_CONV_IN = "conv_in"
_VAE_STEM = "diffusion_pytorch_model.safetensors"  # in a folder, as diffusers names it


def lora_bytes(
    weights: OneStepWeights, layout: str, conv_in: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> bytes:
    """The content of a .safetensors file in a layout of LAYOUTS, with timestep, rule and base in its metadata.

    conv_in: the base's {"weight" (out, in, kh, kw), "bias" (out,)}, from which the weights' own differ. dtype: of the
    tensors, fp32 if None. Raises CheckpointError for a method whose weights are no LoRA of one pass through the UNet,
    and for values that overflow `dtype`.
    """
    pairs, bias = unet_update(weights, conv_in)
    tensors, metadata = LAYOUTS[layout](pairs, bias)
    cast = {name: tensor.to(dtype or torch.float32).contiguous() for name, tensor in tensors.items()}
    if not all(tensor.isfinite().all() for tensor in cast.values()):
        raise CheckpointError(f"{weights.source} has values that overflow {dtype}; write it as fp32.")
    return sorted_safetensors(cast, {**weights.metadata, "method": weights.method, **metadata})


def unet_update(
    weights: OneStepWeights, conv_in: Mapping[str, Tensor]
) -> tuple[dict[str, LoRAPair], Tensor | None]:
    """(pairs of scale 1 by module, fp32; what is added to conv_in's bias, None for nothing); as `lora_bytes`."""
    _check_is_lora(weights)
    parts: dict[str, list[LoRAPair]] = {}
    for lora in weights.unet_sets:
        for module, (a, b) in lora.items():
            parts.setdefault(module, []).append(LoRAPair(a.float(), lora.scale * b.float()))
    pairs = {
        module: LoRAPair(torch.cat([pair.A for pair in found]), torch.cat([pair.B for pair in found], dim=1))
        for module, found in parts.items()
    }
    if not weights.conv_in:
        return pairs, None
    update = weights.conv_in["weight"].float() - conv_in["weight"].float()
    if _CONV_IN in pairs:
        a, b = pairs[_CONV_IN]
        update = update + (b.flatten(1) @ a.flatten(1)).view_as(update)
    pairs[_CONV_IN] = _of_any_rank(update)
    return pairs, weights.conv_in["bias"].float() - conv_in["bias"].float()


def _check_is_lora(weights: OneStepWeights) -> None:
    facts = facts_of(weights.method)
    if weights.network:
        why = f"{facts.title} is a network of its own, not LoRA for a UNet"
    elif facts.prepare is not None:
        why = f"{facts.title} makes its LoRA anew for each picture"
    elif not _is_plain(weights):
        why = f"{facts.title} takes a sum of passes through the UNet, which no single LoRA gives"
    elif weights.missing or weights.unexpected:
        raise CheckpointError(f"{weights.source} is incomplete; download or export it again.")
    else:
        return
    raise CheckpointError(
        f"{weights.source} has no place in a LoRA file: {why}; use it with OSEDiff's nodes."
    )


def _is_plain(weights: OneStepWeights) -> bool:
    """Whether the default prediction is one pass, with all sets and the picture's prompt."""
    facts = facts_of(weights.method)
    names = {lora.name for lora in weights.unet_sets}
    found = facts.passes(**facts.settle({}))
    return len(found) == 1 and all(
        one.weight == 1 and one.prompt is None and (one.sets is None or set(one.sets) == names)
        for one in found
    )


def _of_any_rank(update: Tensor) -> LoRAPair:
    """A convolution's update (out, in, kh, kw) as a pair of the full rank, in * kh * kw."""
    count = update[0].numel()
    return LoRAPair(torch.eye(count).view(count, *update.shape[1:]), update.reshape(-1, count, 1, 1))


def _diffusers(
    pairs: Mapping[str, LoRAPair], bias: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """peft's names under "unet.", and its configuration, as diffusers writes both."""
    tensors = {}
    for module, pair in pairs.items():
        tensors |= {f"unet.{module}.lora_{factor}.weight": t for factor, t in zip("AB", pair, strict=True)}
        if bias is not None:  # peft has biases at every module or at none
            own = module == _CONV_IN
            tensors[f"unet.{module}.lora_B.bias"] = bias if own else torch.zeros(len(pair.B))
    ranks = {module: len(pair.A) for module, pair in pairs.items()}
    most = max(ranks.values(), key=list(ranks.values()).count)
    others = {module: rank for module, rank in ranks.items() if rank != most}
    # without it releases before 0.38 or so would take one alpha for all ranks
    settings = {
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "lora_bias": bias is not None,
    }
    return tensors, {
        "format": "pt",
        "lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in settings.items()}),
    }


def _comfyui(pairs: Mapping[str, LoRAPair], bias: Tensor | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """kohya's names with an alpha equal to the rank, and ComfyUI's for what is added to a bias."""
    tensors = {}
    for module, (a, b) in pairs.items():
        name = f"lora_unet_{module.replace('.', '_')}"
        tensors |= {
            f"{name}.lora_down.weight": a,
            f"{name}.lora_up.weight": b,
            f"{name}.alpha": torch.tensor(float(len(a))),
        }
    if bias is not None:
        tensors[f"lora_unet_{_CONV_IN}.diff_b"] = bias
    return tensors, {}


Layout = Callable[[Mapping[str, LoRAPair], Tensor | None], tuple[dict[str, Tensor], dict[str, str]]]
LAYOUTS: dict[str, Layout] = {"diffusers": _diffusers, "comfyui": _comfyui}


def write_vae(path: Path, vae: AutoencoderKL, dtype: torch.dtype | None = None) -> Path:
    """Write a whole VAE: a name in .safetensors as that file, else as a folder that diffusers reads; the tensors' file.

    ComfyUI's Load VAE takes the file. Raises CheckpointError where it cannot be written.
    """
    tensors = {
        name: tensor.detach().to(dtype or torch.float32).contiguous()
        for name, tensor in vae.state_dict().items()
    }
    file = path if path.suffix.lower() == ".safetensors" else path / _VAE_STEM
    if file != path:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be made a folder ({error.strerror}); choose another name."
            ) from error
        write_file(path / "config.json", vae.to_json_string().encode())
    write_file(file, sorted_safetensors(tensors, {"format": "pt"}))
    return file
