"""Small random models of Stable Diffusion's real classes, and OSEDiff checkpoints put together by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

RANK = 4
UNET_SD21 = {
    "attention_head_dim": [5, 10, 20, 20],
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "use_linear_projection": True,
}
VAE_SD21 = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 2,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def tiny_unet(**changes: object) -> UNet2DConditionModel:
    """Two levels, one with attention and one without; 4 latent channels."""
    config = {
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "norm_num_groups": 8,
        "sample_size": 8,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "use_linear_projection": True,
    }
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**config, **changes}).eval()


def tiny_vae(**changes: object) -> AutoencoderKL:
    """Two levels (f = 2) with mid-block attention; fewer levels than Stable Diffusion's four."""
    config = {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    torch.manual_seed(1)
    return AutoencoderKL(**{**config, **changes}).eval()


def official_unet_lists(unet: nn.Module) -> dict[str, list[str]]:
    """The modules by their kind, told apart without any name pattern: what the rules must come to."""
    lists: dict[str, list[str]] = {"encoder": [], "decoder": [], "others": []}
    for name, module in unet.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and "time_emb" not in name:
            top = name.split(".")[0]
            group = {
                "down_blocks": "encoder",
                "conv_in": "encoder",
                "up_blocks": "decoder",
                "conv_out": "decoder",
            }
            lists[group.get(top, "others")].append(name)
    return lists


def official_content(unet: nn.Module, vae: nn.Module, rank: int = RANK, seed: int = 0) -> dict[str, object]:
    """An official checkpoint with random values, in the order in which the official code saves one."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.1

    def factors(name: str, module: nn.Module, adapter: str) -> dict[str, torch.Tensor]:
        kernel = module.kernel_size if isinstance(module, nn.Conv2d) else ()
        out, inner = module.weight.shape[:2]
        return {
            f"{name}.lora_A.{adapter}.weight": random(rank, inner, *kernel),
            f"{name}.lora_B.{adapter}.weight": random(out, rank, *(1 for _ in kernel)),
        }

    lists = official_unet_lists(unet)
    group_of = {name: group for group, names in lists.items() for name in names}
    state_unet = {
        "conv_in.base_layer.weight": random(*unet.conv_in.weight.shape),
        "conv_in.base_layer.bias": random(*unet.conv_in.bias.shape),
    }
    for name, module in unet.named_modules():
        if name in group_of:
            state_unet |= factors(name, module, f"default_{group_of[name]}")
    vae_names, state_vae = [], {}
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and (
            name.startswith("encoder.") or name == "quant_conv"
        ):
            vae_names += [name] * (2 if "conv" in name else 1)  # official lists repeat names
            state_vae |= factors(name, module, "default_encoder")
    return {
        "vae_lora_encoder_modules": vae_names,
        "unet_lora_encoder_modules": lists["encoder"],
        "unet_lora_decoder_modules": lists["decoder"],
        "unet_lora_others_modules": lists["others"],
        "rank_unet": rank,
        "rank_vae": rank,
        "state_dict_unet": state_unet,
        "state_dict_vae": state_vae,
    }


def reference_folder() -> Path | None:
    """The folder with the data (OSEDIFF_REFERENCE or ../shared beside the repository), if there is one."""
    named = os.environ.get("OSEDIFF_REFERENCE")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    return folder if (folder / "golden" / "make_weights.py").is_file() else None


def import_reference(name: str) -> object:
    """A Python file of the reference folder as a module."""
    import importlib.util

    path = reference_folder() / "golden" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
