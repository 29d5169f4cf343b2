"""SD 2.1-base and OSEDiff weights of the true size with random values: what speed and memory are measured on.

Matrices are normal with variance 1 / fan-in, as in an untrained but well-scaled network; the last convolutions are
smaller, so that images stay in range and the noise prediction is the size of the latents.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import osediff_core
from osediff_core.weights.checkpoint import write_weights
from training.adapters import attach_peft, weights_from_peft

_CONFIGS = Path(osediff_core.__file__).parent / "backends/sd21_base"
_SMALLER = {
    "unet": {"conv_out.weight": 0.1},
    "vae": {"encoder.conv_out.weight": 0.5, "decoder.conv_out.weight": 0.5},
}


@torch.no_grad()
def write_full_size(folder: Path) -> tuple[Path, Path]:
    """Write a diffusers folder (4.9 GB, fp32) and OSEDiff weights of rank 4: (base, weights)."""
    base, weights = folder / "base", folder / "osediff.safetensors"
    shutil.copytree(_CONFIGS, base)
    networks = {}
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        network = on_meta(part)
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


def on_meta(part: str) -> nn.Module:
    """unet, vae or text_encoder of SD 2.1-base, without memory for its weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    config = json.loads((_CONFIGS / part / "config.json").read_text())
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
