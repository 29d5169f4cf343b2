"""Sizes of the embedded model, in the classes that SD 2.1 uses (f = 4, 8 latent channels).

At 512 px the VAE takes 44 GFLOP and the UNet 53, most of them at the latents' full resolution, where a restorer needs
them; attention is at the lowest level only. UNet widths are multiples of the first one and it keeps 32 norm groups, so
that ComfyUI can build the same network from its own modules. The VAE has 4 norm groups because the linear start
(`linear_start.py`) needs spare channels inside each group; its attention's output stays zero, which inference leaves
out. The text encoder is that of the first embedded model. The noise schedule is SD's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

LATENT_CHANNELS = 8
DOWNSCALE = 4
TEXT_WIDTH = 64

VAE_CONFIG = {
    "block_out_channels": [16, 32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 4,
    "scaling_factor": 1.0,
    "sample_size": 256,
}
UNET_CONFIG = {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": [64, 128, 128],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "layers_per_block": [4, 1, 1],
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": [2, 4, 4],
    "use_linear_projection": True,
    "norm_num_groups": 32,
    "sample_size": 64,
}
SCHEDULER_CONFIG = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
}


def build_vae() -> AutoencoderKL:
    """A randomly initialised VAE of the embedded model's size."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**VAE_CONFIG)


def build_unet() -> UNet2DConditionModel:
    """A randomly initialised UNet; its last convolution starts at zero, so the first prediction is zero noise."""
    from diffusers import UNet2DConditionModel
    from torch import nn

    unet = UNet2DConditionModel(**UNET_CONFIG)
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    return unet
