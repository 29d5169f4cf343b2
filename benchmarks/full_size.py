"""SD 2.1-base and OSEDiff weights with random values, of the true size or narrow: what is measured on.

Matrices are normal with variance 1 / fan-in, as in an untrained but well-scaled network; the last convolutions are
smaller, so that images stay in range and the noise prediction is the size of the latents.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import osediff_core
from osediff_core.weights.checkpoint import write_weights
from training.adapters import attach_peft, weights_from_peft

_CONFIGS = Path(osediff_core.__file__).parent / "backends/sd21_base"
# SD 2.1's topology, a tenth as wide, for `write_full_size`
NARROW = {
    "unet": {
        "attention_head_dim": [2, 4, 4, 8],
        "block_out_channels": [32, 64, 64, 64],
        "cross_attention_dim": 64,
        "norm_num_groups": 8,
    },
    "vae": {"block_out_channels": [32, 32, 64, 64]},
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    },
}
_SMALLER = {
    "unet": {"conv_out.weight": 0.1},
    "vae": {"encoder.conv_out.weight": 0.5, "decoder.conv_out.weight": 0.5},
}


@torch.no_grad()
def write_full_size(
    folder: Path, sizes: Mapping[str, Mapping[str, object]] | None = None
) -> tuple[Path, Path]:
    """Write a diffusers folder (4.9 GB, fp32) and OSEDiff weights of rank 4: (base, weights).

    sizes: changes to the configurations by part, such as NARROW.
    """
    base, weights = folder / "base", folder / "osediff.safetensors"
    shutil.copytree(_CONFIGS, base)
    for part, changes in (sizes or {}).items():
        config = base / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | dict(changes)))
    networks = {}
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        network = on_meta(part, base)
        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for name, parameter in network.named_parameters():
            tensors[name] = _random(name, parameter.shape, generator) * _SMALLER.get(part, {}).get(name, 1)
        save_file(tensors, base / part / f"{stem}.safetensors", metadata={"format": "pt"})
        networks[part] = network
    unet, vae = networks["unet"], networks["vae"]
    attach_peft(unet, vae)
    generator = torch.Generator().manual_seed(1)
    for network in (unet, vae):
        for name, _ in list(network.named_parameters()):
            if ".lora_" in name or name.startswith("conv_in.base_layer"):
                _set(network, name, generator)
    write_weights(weights, weights_from_peft(unet, vae))
    return base, weights


def on_meta(part: str, base: Path = _CONFIGS) -> nn.Module:
    """unet, vae or text_encoder of a diffusers folder, SD 2.1-base's by default, without memory for its weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    config = json.loads((base / part / "config.json").read_text())
    with torch.device("meta"):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**config))
        return (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(config)


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.02 * values
    if len(shape) == 1:  # of norms
        return 1 + 0.02 * values
    if ".lora_B." in name:
        return 0.05 * values
    return values / math.sqrt(math.prod(shape[1:]))


def _set(network: nn.Module, name: str, generator: torch.Generator) -> None:
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    values = _random(name, getattr(module, leaf).shape, generator)
    setattr(module, leaf, nn.Parameter(values, requires_grad=False))
