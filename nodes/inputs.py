"""Inputs that several nodes have, so that they mean and say the same everywhere."""

from __future__ import annotations

from comfy_api.latest import io

from ..osediff_core import color
from ..osediff_core.choices import DTYPES, VAE_ATTENTIONS
from ..osediff_core.tiles.vae import VAETiling
from ..osediff_core.weights.formats import methods
from .folders import EMBEDDED, NONE, base_choices, weights_choices

AUTO_METHOD = "auto"


def base_input() -> io.Input:
    """The base model."""
    return io.Combo.Input(
        "base",
        options=base_choices(),
        default=EMBEDDED,
        tooltip="The diffusion model: the embedded one, or a file in models/checkpoints. The official weights need "
        "SD 2.1-base, the 512-pixel model.",
    )


def weights_input(or_none: bool = False) -> io.Input:
    """OSEDiff's weights. or_none: the base alone can be chosen, too."""
    tooltip = (
        "OSEDiff's weights for the base: the embedded ones for the embedded base, or a .pkl or .safetensors in "
        "models/osediff; there also those of PiSA-SR, OMGSR-S, HYPIR and S3Diff."
    )
    if not or_none:
        return io.Combo.Input("weights", options=weights_choices(), default=EMBEDDED, tooltip=tooltip)
    options = [*weights_choices(), NONE]
    return io.Combo.Input(
        "weights", options=options, default=EMBEDDED, tooltip=f"{tooltip} 'none' loads the base alone."
    )


def method_input() -> io.Input:
    """The method of weights that do not say theirs. Optional, so that workflows saved without it still run."""
    return io.Combo.Input(
        "method",
        options=[AUTO_METHOD, *methods()],
        default=AUTO_METHOD,
        optional=True,
        advanced=True,
        tooltip="The one-step method that the weights are of. 'auto' reads it from the file; some, as of HYPIR's "
        "training, do not say it.",
    )


def chosen_method(name: str) -> str | None:
    """The core's name for the choice; None for 'auto'."""
    return None if name == AUTO_METHOD else name


def strength_inputs() -> list[io.Input]:
    """Strengths of the weights on the UNet and on the VAE's encoder."""
    limits = {"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05, "advanced": True}
    return [
        io.Float.Input(
            "unet_strength",
            tooltip="How much of OSEDiff is applied to the diffusion model: 1 as trained, 0 the base model alone (for "
            "text to image with the same MODEL).",
            **limits,
        ),
        io.Float.Input(
            "vae_strength",
            tooltip="How much of OSEDiff is applied to the VAE's encoder: 1 as trained, 0 the base VAE.",
            **limits,
        ),
    ]


def fidelity_input(optional: bool = False) -> io.Input:
    """The balance between faithfulness to the input and invented detail."""
    return io.Float.Input(
        "fidelity",
        default=0.0,
        min=-1.0,
        max=1.0,
        step=0.05,
        optional=optional,
        tooltip="0: as trained. Towards 1: nearer to the input, which invents less; 1 is the input itself, encoded and "
        "decoded. Towards -1: more detail than trained for.",
    )


def dtype_input() -> io.Input:
    """Precision of the weights."""
    return io.Combo.Input(
        "dtype",
        options=["auto", *DTYPES],
        default="auto",
        advanced=True,
        tooltip="Precision of the weights. 'auto' leaves it to ComfyUI and its command-line flags.",
    )


def scale_input() -> io.Input:
    """Output size over input size."""
    return io.Float.Input(
        "scale",
        default=4.0,
        min=0.05,
        max=16.0,
        step=0.05,
        tooltip="Output size over input size; 1 restores without enlarging.",
    )


def overlap_input(unit: str) -> io.Int.Input:
    """How far tiles overlap; unit: what it is counted in, as words."""
    return io.Int.Input(
        "overlap",
        default=32,
        min=0,
        max=512,
        step=8,
        advanced=True,
        tooltip=f"How far neighbouring tiles overlap, in {unit}; must be smaller than tile.",
    )


def tile_input(advanced: bool = False) -> io.Input:
    """The tiles of the one step."""
    return io.Int.Input(
        "tile",
        default=96,
        min=0,
        max=1024,
        step=8,
        advanced=advanced,
        tooltip="Side of a tile in latents (8 pixels each for Stable Diffusion, 4 for the embedded model); larger "
        "pictures are denoised in overlapping tiles, smaller ones where memory is short. 0: never. 96 is the official "
        "value.",
    )


def vae_tile_input() -> io.Input:
    """The tiles of the VAE."""
    return io.Int.Input(
        "tile",
        default=0,
        min=0,
        max=4096,
        step=64,
        advanced=True,
        tooltip="Side of the VAE's tiles in pixels. 0: whole if memory suffices, else in tiles as memory allows. Their "
        "size does not change the result.",
    )


def vae_attention_input() -> io.Input:
    """The VAE's attention: exact or pooled. Optional, so that workflows saved without it still run."""
    return io.Combo.Input(
        "vae_attention",
        options=list(VAE_ATTENTIONS),
        default="auto",
        optional=True,
        advanced=True,
        tooltip="How the VAE attends over large pictures. exact: over every place. pooled: over averages of 4 x 4 "
        "places or more, at a tenth of the rest's work. auto: exact, unless it would take longer than the rest of the "
        "VAE and than half a minute.",
    )


def vae_tiling(tile: int, attention: str) -> VAETiling:
    """The core's tiling from the two inputs above."""
    return VAETiling(tile or None, attention=attention)


def color_inputs(method: str, weight: str) -> list[io.Input]:
    """The colour fix and its weight."""
    return [
        io.Combo.Input(
            method,
            options=list(color.METHODS),
            default="adain",
            tooltip=" ".join(f"{name}: {fix.summary}." for name, fix in color.METHODS.items()),
        ),
        io.Float.Input(
            weight,
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip="How much of the colour fix: 1 all of it, 0 none.",
        ),
    ]
