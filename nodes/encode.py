"""Encode LQ: a picture at its final size becomes the latents that the one step starts from."""

from __future__ import annotations

import comfy.sd
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.encode import encode
from ..osediff_core.geometry import enlarge, pad_to_multiple, target_size
from .checks import check_vae
from .conversions import join_image, split_image
from .inputs import scale_input, vae_attention_input, vae_tile_input, vae_tiling
from .native.lora import check_made
from .native.vae import NativeVAE
from .progress import Bar
from .sources import EncodedFrom, encoded

METHODS = ("bicubic", "lanczos", "bilinear", "area", "nearest-exact")
_MAX = 16384


class EncodeLQ(io.ComfyNode):
    """Resize, pad, encode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """IMAGE, VAE -> LATENT, IMAGE."""
        return io.Schema(
            node_id="OSEDiff_EncodeLQ",
            display_name="Encode LQ (OSEDiff)",
            category="OSEDiff",
            description="Enlarges a low-quality picture to the size it shall have and encodes it. Any size works: it "
            "is padded by reflection, and Tiled Decode crops it back. The LATENT is an ordinary one.",
            search_aliases=["vae encode", "osediff encode", "upscale"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="One or more pictures or video frames; alpha is kept and enlarged."
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of Load OSEDiff or Apply OSEDiff, whose encoder is adapted."
                ),
                scale_input(),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=_MAX,
                    tooltip="Output width in pixels instead of scale; 0: from scale, or from height and the picture's "
                    "aspect.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=_MAX,
                    tooltip="Output height in pixels instead of scale; 0: from scale, or from width and the picture's "
                    "aspect.",
                ),
                io.Combo.Input(
                    "resize_method",
                    options=list(METHODS),
                    default="bicubic",
                    advanced=True,
                    tooltip="How the picture is enlarged before the step; the models were trained with bicubic.",
                ),
                vae_tile_input(),
                io.Combo.Input(
                    "posterior",
                    options=["mode", "sample"],
                    default="mode",
                    advanced=True,
                    tooltip="mode: always the same result. sample: a draw from the VAE's posterior, as the official "
                    "code takes it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    # else the front end draws a new one for every run, and nothing would be cached
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    advanced=True,
                    tooltip="Of the draw, the same for every frame; not used with posterior mode.",
                ),
                vae_attention_input(),
            ],
            outputs=[
                io.Latent.Output(tooltip="For One-Step Denoise, or any node that takes latents."),
                io.Image.Output(
                    "reference",
                    display_name="reference",
                    tooltip="The enlarged input, for colour fix and comparison.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: comfy.sd.VAE,
        scale: float,
        width: int,
        height: int,
        resize_method: str,
        tile: int,
        posterior: str,
        seed: int,
        vae_attention: str = "auto",
    ) -> io.NodeOutput:
        """Raises ImageError for an IMAGE without pixels, OptionError for an impossible size, BaseModelError for a VAE
        that is no picture's."""
        check_vae(vae)
        check_made(vae)
        rgb, alpha = split_image(image)
        size = output_size(rgb.shape[-1], rgb.shape[-2], scale, width, height)
        codec, tiling = NativeVAE(vae), vae_tiling(tile, vae_attention)
        references, alphas, latents = [], [], []
        bar = Bar("Encode LQ", rgb.shape[0])
        for frame in bar.frames():
            one = slice(frame, frame + 1)
            lq, lq_alpha = _resize(rgb[one], None if alpha is None else alpha[one], size, resize_method)
            padded, before = pad_to_multiple(lq * 2 - 1, codec.downscale)
            draw = torch.Generator().manual_seed(seed) if posterior == "sample" else None
            latents.append(encode(codec, padded, draw is not None, draw, tiling=tiling, progress=bar.parts))
            references.append(lq)
            alphas.append(lq_alpha)
        reference = join_image(references)
        height, width = padded.shape[-2:]
        sources = [
            EncodedFrom(before, (height, width), reference[frame : frame + 1], alphas[frame], frame)
            for frame in range(rgb.shape[0])
        ]
        return io.NodeOutput(encoded(torch.cat(latents), sources), reference)


def output_size(old_width: int, old_height: int, scale: float, width: int, height: int) -> tuple[int, int]:
    """(width, height) of what an old_width x old_height picture becomes; 0 for a side that is not given."""
    if not width and not height:
        return target_size(old_width, old_height, scale=scale)
    size = (
        width or max(1, round(height * old_width / old_height)),
        height or max(1, round(width * old_height / old_width)),
    )
    return target_size(old_width, old_height, size=size)


def _resize(
    rgb: Tensor, alpha: Tensor | None, size: tuple[int, int], method: str
) -> tuple[Tensor, Tensor | None]:
    """One frame at its final size; bicubic is the core's, equal to the command's and to Pillow's."""
    if method != "bicubic":
        rgb = comfy.utils.common_upscale(rgb, *size, method, "disabled").clamp(0, 1)
    return enlarge(rgb, alpha, size)
