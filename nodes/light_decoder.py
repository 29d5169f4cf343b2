"""Light Decoder: a smaller decoder on a VAE."""

from __future__ import annotations

import comfy.sd
import folder_paths
from comfy_api.latest import io

from ..osediff_core.weights.checkpoint import read_decoder
from .checks import check_vae
from .conversions import stamp
from .folders import FOLDER, decoder_path
from .native.decoder import with_decoder


class LightDecoder(io.ComfyNode):
    """AdcSR's or VOSR's decoder in the place of Stable Diffusion's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """VAE -> VAE."""
        return io.Schema(
            node_id="OSEDiff_LightDecoder",
            display_name="Light Decoder (OSEDiff)",
            category="OSEDiff",
            description="Gives a VAE of SD 2.1 a decoder of a quarter of the work and half of the memory: AdcSR's or "
            "VOSR's. Faster, and less fine.",
            search_aliases=["adcsr", "vosr", "half decoder", "fast vae", "tiny vae", "taesd"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of Load OSEDiff or Apply OSEDiff, or any of SD 2.1."),
                io.Combo.Input(
                    "decoder",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="In models/osediff: halfDecoder.ckpt of AdcSR, or sd21_lwdecoder.pth of VOSR.",
                ),
            ],
            outputs=[
                io.Vae.Output(
                    tooltip="For Tiled Decode, and as well for Encode LQ: the encoder is as before."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, decoder: str, **_: object) -> str:
        """Read again when the file was replaced."""
        return stamp([folder_paths.get_full_path(FOLDER, decoder)])

    @classmethod
    def execute(cls, vae: comfy.sd.VAE, decoder: str) -> io.NodeOutput:
        """Raises CheckpointError or BaseModelError for what does not belong together."""
        check_vae(vae)
        return io.NodeOutput(with_decoder(vae, read_decoder(decoder_path(decoder))))
