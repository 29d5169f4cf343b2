"""A miniature of SD 2.1-base with OSEDiff weights: random, of the true topology, the same bytes everywhere.

The reference numbers in `golden/data/inference_*.npz` were made by the official code with exactly these weights.
Every value depends only on the tensor's name and shape: numpy's PCG64 seeded by the name's SHA-256, and
then scaled to what suits its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mini_models.checkpoints import official_content
from mini_models.networks import PARTS, MiniModel, copy_tokenizer_and_schedule, empty_networks, read_config

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
    if name in ("encoder.conv_out.weight", "decoder.conv_out.weight"):
        std *= 0.5  # keeps the image mostly inside [-1, 1]
    if name == "conv_out.weight":
        std *= 0.1  # x0 of the latents' size
    return torch.from_numpy(noise * np.float32(std))


def write_configs(folder: Path) -> None:
    """The miniature's configs, schedule and tokenizer as a diffusers folder without weights."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(read_config(part) | SMALLER[part]))
    copy_tokenizer_and_schedule(folder)


def write_mini(folder: Path) -> MiniModel:
    """Write folder/model (diffusers layout) and folder/osediff.pkl (official format)."""
    model = folder / "model"
    write_configs(model)
    networks = unet, vae, _ = empty_networks(**SMALLER)
    for part, network in zip(PARTS, networks, strict=True):
        stem, prefix = ("model", "text_model.") if part == "text_encoder" else ("diffusion_pytorch_model", "")
        names = {prefix + k.removeprefix(prefix): v.shape for k, v in network.state_dict().items()}
        save_file({k: tensor(k, s) for k, s in names.items()}, model / part / f"{stem}.safetensors")
    torch.save(official_content(unet, vae, values=tensor), folder / "osediff.pkl")
    return MiniModel(model, folder / "osediff.pkl")
