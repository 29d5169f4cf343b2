"""Tiled Decode: restored latents become the picture, with its colours, its size and its alpha."""

from __future__ import annotations

from typing import Any

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.decode import decode
from ..osediff_core.geometry import crop_back
from .color import fix_frame, reference_frames
from .conversions import each_frame, encoded_from, join_image, tile_progress
from .inputs import color_inputs, vae_attention_input, vae_tile_input, vae_tiling
from .native.vae import NativeVAE


class TiledDecode(io.ComfyNode):
    """Decode, crop, fix the colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """LATENT, VAE -> IMAGE."""
        return io.Schema(
            node_id="OSEDiff_Decode",
            display_name="Tiled Decode",
            category="OSEDiff",
            description="Decodes latents, crops the padding of Encode LQ away, gives the picture its input's colours "
            "and alpha. Works frame by frame.",
            search_aliases=["vae decode", "vae decode tiled", "osediff decode"],
            inputs=[
                io.Latent.Input("latent", tooltip="Of One-Step Denoise, or of any node."),
                io.Vae.Input(
                    "vae", tooltip="The base's VAE or the adapted one; their decoders are the same."
                ),
                vae_tile_input(),
                *color_inputs("color_fix", "color_weight"),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Whose colours to take; if not connected, the picture that Encode LQ read.",
                ),
                vae_attention_input(),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        vae: comfy.sd.VAE,
        tile: int,
        color_fix: str,
        color_weight: float,
        reference: Tensor | None = None,
        vae_attention: str = "auto",
    ) -> io.NodeOutput:
        """Raises ImageError if the reference has another number of pictures than the LATENT."""
        samples = latent["samples"]
        codec, tiling = NativeVAE(vae), vae_tiling(tile, vae_attention)
        downscale = codec.downscale
        size = (samples.shape[-2] * downscale, samples.shape[-1] * downscale)
        source = encoded_from(latent, samples.shape[0], size)
        if reference is None and source is not None:
            reference = source.reference
        colours = None if reference is None else reference_frames(reference, samples.shape[0])
        frames = []
        for frame in each_frame(samples.shape[0]):
            progress = tile_progress(frame, samples.shape[0])
            decoded = decode(codec, samples[frame : frame + 1], tiling=tiling, progress=progress)
            image = (decoded + 1) / 2
            if source is not None:
                image = crop_back(image, source.size)
            if colours is not None:
                image = fix_frame(color_fix, image, colours[frame : frame + 1], color_weight)
            frames.append(image)
        return io.NodeOutput(join_image(frames, None if source is None else source.alpha))
