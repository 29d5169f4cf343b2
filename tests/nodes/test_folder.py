"""A base whose sizes are none of Stable Diffusion's: ComfyUI's networks give what the core's give."""

import json
import shutil

import pytest
import torch
from node_graph import distance

from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.load_base import load_base

LEVELS = {
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}


@pytest.fixture(params=[([3, 1, 1], [1, 2, 2], 1), (2, [2, 4, 4], [1, 1, 2])], ids=["uneven", "even"])
def folder(request, tmp_path):
    """The embedded base with a random UNet of `layers`, `heads` and `transformers` a level, and a thin random VAE."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    layers, heads, transformers = request.param
    shutil.copytree(PACKAGED["tiny"], tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(PACKAGED["tiny"] / "text_encoder", tmp_path / "base" / "text_encoder", dirs_exist_ok=True)
    unet, vae = (
        json.loads((PACKAGED["tiny"] / part / "config.json").read_text()) for part in ("unet", "vae")
    )
    uneven = {
        "layers_per_block": layers,
        "attention_head_dim": heads,
        "transformer_layers_per_block": transformers,
    }
    with torch.inference_mode(False):
        torch.manual_seed(0)
        UNet2DConditionModel.from_config({**unet, **LEVELS, **uneven}).save_pretrained(
            tmp_path / "base" / "unet"
        )
        thin = {**vae, "block_out_channels": [16, 32, 32], "norm_num_groups": 4}
        AutoencoderKL.from_config(thin).save_pretrained(tmp_path / "base" / "vae")
    return tmp_path / "base"


def test_networks_of_other_sizes_are_the_core_s(pack, folder):
    model, _, vae = pack.native_folder.load_folder(folder, torch.float32)
    base = load_base(folder, "fp32", "cpu")
    generator = torch.Generator().manual_seed(1)
    latents, embeds = (
        torch.randn(1, 8, 16, 24, generator=generator),
        torch.randn(1, 77, 64, generator=generator),
    )
    timesteps = torch.tensor([99])
    predicted = model.model.diffusion_model(latents, timesteps.float(), context=embeds)
    assert distance(predicted, base.unet(latents, timesteps, embeds)) < 1e-4

    image, network = torch.rand(1, 3, 32, 48, generator=generator) * 2 - 1, vae.first_stage_model
    moments = network.quant_conv(network.encoder(image))
    assert distance(moments, base.vae.module.encode(image).latent_dist.parameters) < 1e-4
    assert distance(network.decode(latents / base.vae.scaling_factor), base.vae.decode(latents)) < 1e-4
    from comfy.ldm.modules.diffusionmodules.model import Normalize

    assert Normalize(32).num_groups == 32  # other VAEs are built as ever
