"""Fit to Picture: weights that a method makes anew for each picture, as S3Diff does."""

from __future__ import annotations

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.errors import OptionError
from .conversions import split_image
from .native.lora import fit_weights


class FitToPicture(io.ComfyNode):
    """The weights on MODEL and VAE by what a picture is like."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """MODEL, VAE, IMAGE -> MODEL, VAE."""
        return io.Schema(
            node_id="OSEDiff_Fit",
            display_name="Fit to Picture (OSEDiff)",
            category="OSEDiff",
            description="Makes S3Diff's weights for one picture, by how blurred and how noisy it is. Other methods' "
            "weights are the same for all pictures and need no such node.",
            search_aliases=["s3diff", "degradation", "estimator"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of Load OSEDiff or Apply OSEDiff with S3Diff's weights."
                ),
                io.Vae.Input("vae", tooltip="The VAE of the same node."),
                io.Image.Input("image", tooltip="The picture to be restored, one, before it is enlarged."),
            ],
            outputs=[
                io.Model.Output(tooltip="For One-Step Denoise, with cfg 1.07 and S3Diff's two prompts."),
                io.Vae.Output(tooltip="For Encode LQ of the same picture."),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, vae: comfy.sd.VAE, image: Tensor) -> io.NodeOutput:
        """Raises OptionError for several pictures, or for weights of another method."""
        rgb, _ = split_image(image)
        if rgb.shape[0] > 1:
            raise OptionError("These weights are made for one picture; give one, and the others one by one.")
        return io.NodeOutput(*fit_weights(model, vae, rgb * 2 - 1))
