"""Pixel / Semantic: PiSA-SR's two sliders."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from .checks import check_model
from .native.lora import set_sliders


class PixelSemantic(io.ComfyNode):
    """The weights of two predictions, as in PiSA-SR's own code."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """MODEL -> MODEL."""
        return io.Schema(
            node_id="OSEDiff_PixelSemantic",
            display_name="Pixel / Semantic (OSEDiff)",
            category="OSEDiff",
            description="PiSA-SR's two sliders: how much degradation is removed, and how much detail is added. Unlike "
            "strengths of a LoRA they weigh what is predicted, as its authors do.",
            search_aliases=["pisa", "pisa-sr", "detail", "adjustable", "guidance"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of Load OSEDiff or Apply OSEDiff with PiSA-SR's weights."
                ),
                io.Float.Input(
                    "pixel",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How much of the degradation is removed: 0 none, 1 as trained, above 1 until over-smooth.",
                ),
                io.Float.Input(
                    "semantic",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="How much detail is added: 0 none, 1 as trained, above 1 until artefacts. If it is neither "
                    "0 nor equal to pixel, the step takes twice as long.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For One-Step Denoise or OSEDiff Sampler.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, pixel: float, semantic: float) -> io.NodeOutput:
        """Raises OptionError for a MODEL of another method or without one, BaseModelError for none."""
        check_model(model)
        return io.NodeOutput(set_sliders(model, {"pixel": pixel, "semantic": semantic}))
