"""Tiled Decode: restored latents become the picture, with its colours, its size and its alpha."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.decode import decode
from ..osediff_core.geometry import crop_back, pad_to_multiple
from .checks import check_channels, check_vae, latent_samples
from .color import fix_frame, reference_frames
from .conversions import join_image, split_image
from .inputs import color_inputs, vae_attention_input, vae_tile_input, vae_tiling
from .native.vae import NativeVAE
from .notices import as_output, warn, warnings_gathered
from .progress import Bar
from .sources import EncodedFrom, Sources, sources_of, warn_of_changed


class TiledDecode(io.ComfyNode):
    """Decode, crop, fix the colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """LATENT, VAE -> IMAGE."""
        return io.Schema(
            node_id="OSEDiff_Decode",
            display_name="Tiled Decode (OSEDiff)",
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
        """Raises ImageError if the reference has another number of pictures than the LATENT, or that is no picture's;
        BaseModelError or OptionError for a VAE that is no picture's, or of another family than the LATENT."""
        check_vae(vae)
        samples = latent_samples(latent)
        codec, tiling = NativeVAE(vae), vae_tiling(tile, vae_attention)
        check_channels(samples, codec.latent_channels, "VAE")
        count = samples.shape[0]
        size = (samples.shape[-2] * codec.downscale, samples.shape[-1] * codec.downscale)
        given = None if reference is None else reference_frames(reference, count)
        with warnings_gathered() as warnings:
            sources = [source if source and source.padded == size else None for source in sources_of(latent)]
            warn_of_changed(latent, sources)
            if given is None and not any(sources) and not warnings and color_fix != "none" and color_weight:
                warn(
                    f"color_fix {color_fix} changes nothing, as this LATENT carries no picture of Encode LQ; connect a "
                    "reference, or choose none."
                )
            crop = _common_crop(sources, size)
        frames = []
        bar = Bar("Tiled Decode", count)
        for frame in bar.frames():
            decoded = decode(codec, samples[frame : frame + 1], tiling=tiling, progress=bar.parts)
            image = crop_back((decoded + 1) / 2, crop)
            colours = _colours(given, frame, sources[frame], crop, codec.downscale)
            if colours is not None:
                image = fix_frame(color_fix, image, colours, color_weight)
            frames.append(image)
        return io.NodeOutput(join_image(frames, _alphas(sources, crop)), ui=as_output(warnings))


def _common_crop(sources: Sources, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that all frames are cropped to: an IMAGE has one. Without a source there is nothing to crop."""
    sizes = {source.size if source else size for source in sources}
    if len(sizes) == 1:
        return sizes.pop()
    warn(
        "The pictures in this LATENT had different sizes, so that they keep the padding of Encode LQ and lose their "
        "alpha; decode them one by one (Rebatch Latents), or make them one size before."
    )
    return size


def _colours(
    given: Tensor | None, frame: int, source: EncodedFrom | None, crop: tuple[int, int], downscale: int
) -> Tensor | None:
    """rgb (1, 3, H, W) in [0, 1] whose colours the frame gets, if any."""
    if given is not None:
        return given[frame : frame + 1]
    if source is None:
        return None
    colours, _ = split_image(source.reference)
    return colours if source.size == crop else pad_to_multiple(colours, downscale)[0]


def _alphas(sources: Sources, crop: tuple[int, int]) -> Tensor | None:
    """(B, 1, H, W), frames without one opaque; None if none has one that fits."""
    alphas = [source.alpha if source and source.size == crop else None for source in sources]
    if all(alpha is None for alpha in alphas):
        return None
    return torch.cat([torch.ones(1, 1, *crop) if alpha is None else alpha.cpu() for alpha in alphas])
