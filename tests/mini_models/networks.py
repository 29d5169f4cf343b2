"""Small Stable Diffusion networks with fixed random weights, and base models of them as diffusers folders."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import osediff_core

PARTS = ("unet", "vae", "text_encoder")
SD21 = Path(osediff_core.__file__).parent / "backends" / "sd21_base"


@dataclass(frozen=True)
class MiniModel:
    """base: a diffusers folder. weights: an official .pkl."""

    base: Path
    weights: Path


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


def tiny_vae(widths: tuple[int, ...] = (16, 32), **changes: object) -> AutoencoderKL:
    """One level for each width (f = 2 for two), mid-block attention; Stable Diffusion has four."""
    config = {
        "block_out_channels": widths,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    torch.manual_seed(1)
    return AutoencoderKL(**{**config, **changes}).eval()


def tiny_text(width: int = 32) -> CLIPTextModel:
    """One layer; SD's own vocabulary."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width}
    config = read_config("text_encoder") | sizes | {"num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(2)
    return CLIPTextModel(CLIPTextConfig(**config))


def read_config(part: str) -> dict[str, object]:
    """SD 2.1's own configuration of a part."""
    return json.loads((SD21 / part / "config.json").read_text())


def empty_networks(**changes: dict[str, object]) -> tuple[nn.Module, nn.Module, nn.Module]:
    """UNet, VAE and text encoder as SD 2.1 has them but for the changes by part, without values."""
    unet, vae, text = (read_config(part) | changes.get(part, {}) for part in PARTS)
    with torch.device("meta"):
        return (
            UNet2DConditionModel.from_config(unet),
            AutoencoderKL.from_config(vae),
            CLIPTextModel(CLIPTextConfig.from_dict(text)),
        )


def write_mini_base(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A base that training takes: 4 latent channels, f = 4, prompts 64 wide."""
    unet = tiny_unet(sample_size=16, attention_head_dim=(1, 2), cross_attention_dim=64)
    vae = tiny_vae((16, 32, 32), norm_num_groups=8, scaling_factor=0.18215)
    return write_base(folder, unet, vae, tiny_text(64), prediction_type)


def write_base(
    folder: Path, unet: nn.Module, vae: nn.Module, text: nn.Module, prediction_type: str = "epsilon"
) -> Path:
    """A diffusers folder of the networks, with SD 2.1's tokenizer and schedule."""
    for part, network in zip(PARTS, (unet, vae, text), strict=True):
        network.save_pretrained(folder / part)
    copy_tokenizer_and_schedule(folder, prediction_type)
    return folder


def copy_tokenizer_and_schedule(folder: Path, prediction_type: str = "epsilon") -> None:
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(SD21 / part, folder / part)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": prediction_type}))


@torch.no_grad()
def stir(parameters: dict[str, Tensor], seed: int = 0) -> None:
    """Give every LoRA factor values that matter: peft's own start has B = 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if ".lora_" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
