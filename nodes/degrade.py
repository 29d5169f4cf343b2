"""Degrade: good pictures become bad ones, to test a restoration or to make training pairs."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.degrade import PRESETS, degrade
from ..osediff_core.geometry import fill_transparent, resize_clipped
from .conversions import join_image, split_image
from .progress import each_frame


class Degrade(io.ComfyNode):
    """Real-ESRGAN's, CodeFormer's and BSRGAN's degradations, with a seed and a record."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """IMAGE -> IMAGE, STRING."""
        presets = " ".join(f"{name}: {preset.summary}." for name, preset in PRESETS.items())
        return io.Schema(
            node_id="OSEDiff_Degrade",
            display_name="Degrade (OSEDiff)",
            category="OSEDiff",
            description="Makes good pictures bad, as cameras and the web do: blur, shrinking, noise and JPEG. To see "
            "what a restoration brings back, or to make training pairs.",
            search_aliases=[
                "degradation",
                "real-esrgan",
                "codeformer",
                "bsrgan",
                "low quality",
                "jpeg artifacts",
                "blur",
                "noise",
                "downscale",
            ],
            inputs=[
                io.Image.Input(
                    "image", tooltip="Good pictures; each is degraded in its own way. Alpha is kept."
                ),
                io.Combo.Input("preset", options=list(PRESETS), default="realesrgan", tooltip=presets),
                io.Float.Input(
                    "scale",
                    default=4.0,
                    min=1.0,
                    max=16.0,
                    step=0.05,
                    tooltip="How many times smaller the result is; 1 keeps the size.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The same seed degrades the n-th picture of a batch in the same way, whatever the others "
                    "are.",
                ),
                io.Boolean.Input(
                    "resize_back",
                    default=False,
                    tooltip="Enlarge the result to the old size, as training does. Off, it stays small, ready for a "
                    "restoration that enlarges.",
                ),
                io.Boolean.Input(
                    "official",
                    default=False,
                    optional=True,  # older graphs do not have it
                    tooltip="Compress, shrink and round as the code that OSEDiff was trained with, faults included, "
                    "not with real JPEG. Without effect on codeformer, bsrgan and bsrgan_plus.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The degraded pictures."),
                io.String.Output(
                    "parameters",
                    display_name="parameters",
                    tooltip="What was done, one line for each picture.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, preset: str, scale: float, seed: int, resize_back: bool, official: bool = False
    ) -> io.NodeOutput:
        """Raises ImageError for an IMAGE without pixels, OptionError for an impossible option."""
        rgb, alpha = split_image(image)
        frames, alphas, lines = [], [], []
        for frame in each_frame("Degrade", rgb.shape[0]):
            one = slice(frame, frame + 1)
            # what full transparency hides must not bleed into the blur
            picture = rgb[one] if alpha is None else fill_transparent(rgb[one], alpha[one])
            lq, (degradation,) = degrade(
                picture, preset, scale, seed, resize_back, first=frame, official=official
            )
            frames.append(lq)
            lines.append(degradation.describe())
            if alpha is not None:
                alphas.append(resize_clipped(alpha[one], (lq.shape[-1], lq.shape[-2])))
        result = join_image(frames, torch.cat(alphas) if alphas else None)
        return io.NodeOutput(result, "\n".join(lines))
