"""Load One-Step Upscaler: a method that is one network by itself. One-Step Upscale: the same on pictures, in tiles."""

from __future__ import annotations

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.direct.load import NETWORKS
from ..osediff_core.direct.restorer import upscale
from ..osediff_core.errors import CheckpointError, OptionError
from ..osediff_core.geometry import resize, resize_clipped, target_size
from ..osediff_core.runtime.device import DTYPES
from ..osediff_core.tiles.grid import check_tile
from ..osediff_core.tiles.unet import UNetTiling
from ..osediff_core.weights.checkpoint import read_decoder
from .conversions import join_image, split_image, stamp
from .folders import FOLDER, decoder_path, path_or_none, read_chosen
from .inputs import dtype_input, overlap_input, scale_input, tile_input
from .native.direct import NativeUpscaler
from .progress import Bar


class LoadUpscaler(io.ComfyNode):
    """AdcSR's two files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """-> UPSCALE_MODEL."""
        files = folder_paths.get_filename_list(FOLDER)
        return io.Schema(
            node_id="OSEDiff_LoadUpscaler",
            display_name="Load One-Step Upscaler (OSEDiff)",
            category="OSEDiff",
            description="Loads AdcSR, a one-step method that needs no base, no text and no VAE, as an UPSCALE_MODEL of "
            "ComfyUI's.",
            search_aliases=["adcsr", "upscale model", "fast super resolution"],
            inputs=[
                io.Combo.Input(
                    "weights", options=files, tooltip="In models/osediff: net_params_200.pkl of AdcSR."
                ),
                io.Combo.Input(
                    "decoder", options=files, tooltip="In models/osediff: halfDecoder.ckpt of AdcSR."
                ),
                dtype_input(),
            ],
            outputs=[
                io.UpscaleModel.Output(
                    tooltip="For One-Step Upscale, or ComfyUI's Upscale Image (using Model), which corrects the "
                    "colours of each tile by itself."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, weights: str, decoder: str, **_: object) -> str:
        """Read again when a file was replaced."""
        return stamp([path_or_none(FOLDER, weights), path_or_none(FOLDER, decoder)])

    @classmethod
    def execute(cls, weights: str, decoder: str, dtype: str) -> io.NodeOutput:
        """Raises CheckpointError for files that are something else or do not belong together."""
        with torch.inference_mode(False):
            read = read_chosen(weights)
            if read.method not in NETWORKS:
                raise CheckpointError(
                    f"{weights} is of a method that needs a base; load it by Load OSEDiff or Apply OSEDiff."
                )
            network = NETWORKS[read.method](read, read_decoder(decoder_path(decoder)))
            network.to(DTYPES.get(dtype, torch.float32))
        return io.NodeOutput(NativeUpscaler(network))


class OneStepUpscale(io.ComfyNode):
    """The core's tiles and colours for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """UPSCALE_MODEL, IMAGE -> IMAGE."""
        return io.Schema(
            node_id="OSEDiff_UpscaleDirect",
            display_name="One-Step Upscale (OSEDiff)",
            category="OSEDiff",
            description="Restores and enlarges pictures by Load One-Step Upscaler, in blended tiles, with the colours "
            "of the whole picture.",
            search_aliases=["adcsr", "upscale image using model", "tiled upscale"],
            inputs=[
                io.UpscaleModel.Input("upscale_model", tooltip="Of Load One-Step Upscaler."),
                io.Image.Input(
                    "image", tooltip="One or more pictures or video frames, of any size; alpha is kept."
                ),
                scale_input(),
                tile_input(),
                overlap_input("the same unit"),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, upscale_model: NativeUpscaler, image: Tensor, scale: float, tile: int, overlap: int
    ) -> io.NodeOutput:
        """Raises OptionError for another upscale model or impossible tiles, ImageError for an IMAGE without pixels."""
        if not isinstance(upscale_model, NativeUpscaler):
            raise OptionError(
                "This upscale model is not of Load One-Step Upscaler; use ComfyUI's Upscale Image (using Model) for it."
            )
        if tile:
            check_tile(tile, overlap)
        rgb, alpha = split_image(image)
        size = target_size(rgb.shape[-1], rgb.shape[-2], scale=scale)
        upscale_model.restorer.load()
        frames = []
        bar = Bar("One-Step Upscale", rgb.shape[0])
        for frame in bar.frames():
            lq = rgb[frame : frame + 1] * 2 - 1
            found = upscale(
                upscale_model.restorer, lq, tiling=UNetTiling(tile or None, overlap), progress=bar.parts
            )
            frames.append((resize(found, size).clamp(-1, 1) + 1) / 2)
        return io.NodeOutput(join_image(frames, None if alpha is None else resize_clipped(alpha, size)))
