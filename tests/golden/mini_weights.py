"""A miniature of SD 2.1-base with OSEDiff weights: random, of the true topology, the same bytes everywhere.

The reference numbers in `data/inference_*.npz` were made by the official code with exactly these weights.
Every value depends only on the tensor's name and shape: numpy's PCG64 seeded by the name's SHA-256, and
then scaled to what suits its place.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

CONFIGS = Path(__file__).parents[2] / "osediff_core" / "backends" / "sd21_base"
RANK = 4
SMALLER = {
    "unet": {
        "attention_head_dim": [2, 4, 4, 8],
        "block_out_channels": [32, 64, 64, 64],
        "cross_attention_dim": 64,
        "norm_num_groups": 8,
        "sample_size": 16,
    },
    "vae": {"block_out_channels": [32, 32, 64, 64], "sample_size": 128},
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
    },
}
_VAE_PATTERNS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0".split()
_UNET_PATTERNS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_in conv_shortcut conv_out proj_out proj_in ff.net.2 "
    "ff.net.0.proj"
).split()


@dataclass(frozen=True)
class MiniModel:
    """base: a diffusers folder. weights: an official .pkl."""

    base: Path
    weights: Path


def tensor(name: str, shape: Iterable[int]) -> Tensor:
    """The fp32 values of the tensor of that name and shape."""
    shape = tuple(shape)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias"):
        return torch.from_numpy(noise * np.float32(0.02))
    if len(shape) == 1:  # norm weights
        return torch.from_numpy(np.float32(1) + noise * np.float32(0.02))
    if ".lora_B." in name:
        return torch.from_numpy(noise * np.float32(0.05))
    std = 1.0 / np.sqrt(np.prod(shape[1:], dtype=np.float64))
    if name in (
        "encoder.conv_out.weight",
        "decoder.conv_out.weight",
    ):  # keeps the image mostly inside [-1, 1]
        std *= 0.5
    if name == "conv_out.weight":  # x0 of the latents' size
        std *= 0.1
    return torch.from_numpy(noise * np.float32(std))


def write_configs(folder: Path) -> dict[str, dict]:
    """The miniature's configs, schedule and tokenizer as a diffusers folder without weights.

    Returns the configs by part.
    """
    configs = {}
    for part, changes in SMALLER.items():
        configs[part] = {**json.loads((CONFIGS / part / "config.json").read_text()), **changes}
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(configs[part]))
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(CONFIGS / name, folder / name)
    return configs


def write_mini(folder: Path) -> MiniModel:
    """Write folder/model (diffusers layout) and folder/osediff.pkl (official format)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    model = folder / "model"
    configs = write_configs(model)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
    for part, network, stem, prefix in (
        ("unet", unet, "diffusion_pytorch_model", ""),
        ("vae", vae, "diffusion_pytorch_model", ""),
        ("text_encoder", text, "model", "text_model."),
    ):
        names = {prefix + k.removeprefix(prefix): v.shape for k, v in network.state_dict().items()}
        save_file({k: tensor(k, s) for k, s in names.items()}, model / part / f"{stem}.safetensors")
    torch.save(official_checkpoint(unet, vae), folder / "osediff.pkl")
    return MiniModel(model, folder / "osediff.pkl")


def official_checkpoint(unet: nn.Module, vae: nn.Module) -> dict:
    """What the official code's save_model writes, for these networks."""
    encoder, decoder, others = [], [], []
    for name, _ in unet.named_parameters():
        if "bias" in name or "norm" in name or not any(p in name for p in _UNET_PATTERNS):
            continue
        first, last = "down_blocks" in name or "conv_in" in name, "up_blocks" in name or "conv_out" in name
        (encoder if first else decoder if last else others).append(name.replace(".weight", ""))
    vae_modules = []  # with the official duplicates
    for name, _ in vae.named_parameters():
        for pattern in _VAE_PATTERNS if "bias" not in name and "norm" not in name else []:
            if (pattern in name and "encoder" in name) or (
                "quant_conv" in name and "post_quant_conv" not in name
            ):
                vae_modules.append(name.replace(".weight", ""))
    state_unet = {
        f"conv_in.base_layer.{k}": tensor(f"conv_in.base_layer.{k}", p.shape)
        for k, p in unet.conv_in.named_parameters()
    }
    for modules, adapter in (
        (encoder, "default_encoder"),
        (decoder, "default_decoder"),
        (others, "default_others"),
    ):
        state_unet.update(_lora(unet, modules, adapter))
    return {
        "vae_lora_encoder_modules": vae_modules,
        "unet_lora_encoder_modules": encoder,
        "unet_lora_decoder_modules": decoder,
        "unet_lora_others_modules": others,
        "rank_unet": RANK,
        "rank_vae": RANK,
        "state_dict_unet": state_unet,
        "state_dict_vae": _lora(vae, vae_modules, "default_encoder"),
    }


def _lora(network: nn.Module, modules: Iterable[str], adapter: str) -> dict[str, Tensor]:
    tensors = {}
    for name in dict.fromkeys(modules):
        out_features, in_features, *kernel = network.get_submodule(name).weight.shape
        for factor, shape in (
            ("A", (RANK, in_features, *kernel)),
            ("B", (out_features, RANK, *[1 for _ in kernel])),
        ):
            key = f"{name}.lora_{factor}.{adapter}.weight"
            tensors[key] = tensor(key, shape)
    return tensors
