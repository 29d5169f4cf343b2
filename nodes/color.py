"""Colour Fix: a picture gets the colours of another."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..osediff_core import color
from ..osediff_core.errors import ImageError, amount
from ..osediff_core.geometry import resize_clipped
from .conversions import join_image, split_image
from .inputs import color_inputs
from .progress import each_frame


class ColourFix(io.ComfyNode):
    """The colour fix of Tiled Decode by itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """IMAGE, reference IMAGE -> IMAGE."""
        return io.Schema(
            node_id="OSEDiff_ColorFix",
            display_name="Colour Fix (OSEDiff)",
            category="OSEDiff",
            description="Gives pictures the colours of reference pictures. Of another size, the reference is resized.",
            search_aliases=["color match", "color transfer", "color correction", "adain", "wavelet"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="The pictures whose colours are to be changed; alpha is kept."
                ),
                io.Image.Input(
                    "reference", tooltip="The picture with the right colours, one for all or one for each."
                ),
                *color_inputs("method", "weight"),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Tensor, reference: Tensor, method: str, weight: float) -> io.NodeOutput:
        """Raises ImageError for pictures without pixels, or another number of references than pictures."""
        rgb, alpha = split_image(image)
        colours = reference_frames(reference, rgb.shape[0])
        frames = [
            fix_frame(method, rgb[frame : frame + 1], colours[frame : frame + 1], weight)
            for frame in each_frame("Colour Fix", rgb.shape[0])
        ]
        return io.NodeOutput(join_image(frames, alpha))


def reference_frames(reference: Tensor, frames: int) -> Tensor:
    """IMAGE (1 or `frames`, H, W, C) -> rgb (frames, 3, H, W) in [0, 1]. Raises ImageError for other numbers."""
    colours, _ = split_image(reference)
    if colours.shape[0] not in (1, frames):
        raise ImageError(
            f"There are {colours.shape[0]} reference pictures for {amount(frames, 'picture')}; give one, or one for "
            "each."
        )
    return colours.expand(frames, -1, -1, -1)


def fix_frame(method: str, image: Tensor, reference: Tensor, weight: float) -> Tensor:
    """One picture (1, 3, H, W) in [0, 1] with the colours of the reference (1, 3, H', W'); grey stays grey."""
    reference = resize_clipped(reference.to(image), (image.shape[-1], image.shape[-2]))
    fixed = color.apply(method, image, reference, weight)
    if method != "none" and bool((reference == reference[:, :1]).all()):
        return color.to_grey(fixed)
    return fixed
