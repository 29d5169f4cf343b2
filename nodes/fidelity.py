"""Fidelity: one slider for how much of OSEDiff is taken."""

from __future__ import annotations

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..osediff_core.fidelity import strengths
from .checks import check_model, check_vae
from .inputs import fidelity_input
from .native.lora import attachment_of, scale_weights, set_sliders


class Fidelity(io.ComfyNode):
    """The core's strengths on MODEL, VAE and the step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """MODEL, VAE -> MODEL, VAE, FLOAT."""
        return io.Schema(
            node_id="OSEDiff_Fidelity",
            display_name="Fidelity (OSEDiff)",
            category="OSEDiff",
            description="One slider between what is in the input and what OSEDiff invents. It changes the strengths of "
            "OSEDiff on MODEL and VAE, and says how much of the step is to be taken.",
            search_aliases=["fidelity", "detail", "creativity", "strength", "denoise", "blend"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Load OSEDiff or Apply OSEDiff."),
                io.Vae.Input("vae", tooltip="The VAE of Load OSEDiff or Apply OSEDiff."),
                fidelity_input(),
            ],
            outputs=[
                io.Model.Output(),
                io.Vae.Output(tooltip="For Encode LQ; its decoder is as before."),
                io.Float.Output(
                    "strength", display_name="strength", tooltip="For strength of One-Step Denoise."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, vae: comfy.sd.VAE, fidelity: float) -> io.NodeOutput:
        """Raises OptionError for a MODEL or VAE without OSEDiff, BaseModelError for none."""
        check_model(model)
        check_vae(vae)
        chosen = strengths(fidelity)
        own = attachment_of(model).method.fidelity
        if own is not None:  # the method's sliders are that already
            return io.NodeOutput(set_sliders(model, own(fidelity)), vae, 1.0)
        return io.NodeOutput(*scale_weights(model, vae, chosen.unet, chosen.vae), chosen.step)
