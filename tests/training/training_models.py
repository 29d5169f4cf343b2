"""A mini base for the trainer's tests: SD 2.1's layout, small, with fixed random weights."""

import json
import shutil
from pathlib import Path

import torch

import osediff_core

PACKAGED = Path(osediff_core.__file__).parent / "backends/sd21_base"


def write_base(folder, prediction_type="epsilon"):
    """Two levels, 4 latent channels, 64-wide prompts; a diffusers folder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        attention_head_dim=(1, 2),
        cross_attention_dim=64,
        layers_per_block=1,
        norm_num_groups=8,
        use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(16, 32, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    text = json.loads((PACKAGED / "text_encoder/config.json").read_text()) | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": 64,
    }
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder / "text_encoder")
    shutil.copytree(PACKAGED / "tokenizer", folder / "tokenizer")
    scheduler = json.loads((PACKAGED / "scheduler/scheduler_config.json").read_text())
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(
        json.dumps(scheduler | {"prediction_type": prediction_type})
    )
    return folder


@torch.no_grad()
def stir(parameters, seed=0):
    """Give every LoRA factor values that matter: peft's own start has B = 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if ".lora_" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
