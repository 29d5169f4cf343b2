"""Load OSEDiff: a base and OSEDiff's weights on it. Apply OSEDiff: the weights on what other loaders gave."""

from __future__ import annotations

import comfy.sd
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..osediff_core.errors import BaseModelError
from ..osediff_core.runtime.device import DTYPES
from .checks import check_model, check_vae
from .conversions import stamp
from .folders import (
    EMBEDDED,
    FOLDER,
    NONE,
    TINY,
    missing_file,
    path_or_none,
    read_chosen,
)
from .inputs import (
    AUTO_METHOD,
    base_input,
    chosen_method,
    dtype_input,
    method_input,
    strength_inputs,
    weights_input,
)
from .kept import Kept
from .native.folder import load_folder
from .native.lora import apply_weights
from .notices import as_output, warnings_gathered
from .sources import follow_sampling

Loaded = tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]

_kept = Kept()


class LoadOSEDiff(io.ComfyNode):
    """The beginning of a graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Base and weights -> MODEL, CLIP, VAE."""
        return io.Schema(
            node_id="OSEDiff_Load",
            display_name="Load OSEDiff",
            category="OSEDiff",
            description="Loads a base model and puts OSEDiff's weights on it. The small embedded model needs no "
            "download; for full quality choose SD 2.1-base (512 px) and the official osediff.pkl.",
            search_aliases=["osediff", "super resolution", "upscale model", "restore", "image restoration"],
            inputs=[
                base_input(),
                weights_input(or_none=True),
                *strength_inputs(),
                dtype_input(),
                method_input(),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, base: str, weights: str, **_: object) -> str:
        """Read again when a file was replaced."""
        return stamp([path_or_none("checkpoints", base), path_or_none(FOLDER, weights)])

    @classmethod
    def execute(
        cls,
        base: str,
        weights: str,
        unet_strength: float,
        vae_strength: float,
        dtype: str,
        method: str = AUTO_METHOD,
    ) -> io.NodeOutput:
        """Raises BaseModelError or CheckpointError for files that are missing or do not belong together."""
        asked = (base, weights, unet_strength, vae_strength, dtype, method)
        stamped = (*asked, cls.fingerprint_inputs(base, weights))
        return io.NodeOutput(*_kept.get_or_load(stamped, lambda: _load(*asked)))


def _load(
    base: str, weights: str, unet_strength: float, vae_strength: float, dtype: str, method: str
) -> Loaded:
    osediff = None if weights == NONE else read_chosen(weights, chosen_method(method))
    model, clip, vae = load_base(base, DTYPES.get(dtype))
    follow_sampling(model)
    if osediff is not None:
        model, vae = apply_weights(model, vae, osediff, unet_strength, vae_strength)
    return model, clip, vae


class ApplyOSEDiff(io.ComfyNode):
    """For models from other loaders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """MODEL, VAE and weights -> MODEL, VAE."""
        return io.Schema(
            node_id="OSEDiff_Apply",
            display_name="Apply OSEDiff",
            category="OSEDiff",
            description="Puts OSEDiff's weights on a MODEL and a VAE that are loaded already, by whichever loader; "
            "other LoRAs before or after it stay.",
            search_aliases=["osediff lora", "patch model"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="SD 2.1-base (512 px), or whichever base the weights are for."
                ),
                io.Vae.Input("vae", tooltip="The base's VAE; its encoder gets a LoRA, its decoder stays."),
                weights_input(),
                *strength_inputs(),
                method_input(),
            ],
            outputs=[io.Model.Output(), io.Vae.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, weights: str, **_: object) -> str:
        """Read again when the file was replaced."""
        return stamp([path_or_none(FOLDER, weights)])

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        vae: comfy.sd.VAE,
        weights: str,
        unet_strength: float,
        vae_strength: float,
        method: str = AUTO_METHOD,
    ) -> io.NodeOutput:
        """Raises BaseModelError or CheckpointError for what does not belong together."""
        check_model(model)
        check_vae(vae)
        read = read_chosen(weights, chosen_method(method))
        with warnings_gathered() as warnings:
            patched = apply_weights(model, vae, read, unet_strength, vae_strength)
        return io.NodeOutput(*patched, ui=as_output(warnings))


def load_base(name: str, dtype: torch.dtype | None) -> Loaded:
    """MODEL, CLIP and VAE of a choice. Raises BaseModelError if the file is gone or not a whole checkpoint."""
    if name == EMBEDDED:
        return load_folder(TINY, dtype)
    path = folder_paths.get_full_path("checkpoints", name)
    if path is None:
        wanted = "SD 2.1-base (v2-1_512-ema-pruned.safetensors)"
        raise BaseModelError(missing_file("checkpoints", name, wanted, "another base"))
    options = {} if dtype is None else {"dtype": dtype}
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        path,
        output_vae=True,
        output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options=options,
        te_model_options=options,
    )
    network = None if vae is None else vae.first_stage_model
    if model is None or clip is None or vae is None or network is None:
        parts = {"UNet": model, "text encoder": clip, "VAE": network}
        missing = [part for part, found in parts.items() if found is None]
        raise BaseModelError(
            f"The checkpoint {name} has no {' and no '.join(missing)}; use a whole one such as "
            "SD 2.1-base, or load its parts with ComfyUI's loaders and put Apply OSEDiff behind them."
        )
    if dtype is not None:
        vae.vae_dtype = dtype
        network.to(dtype)
    return model, clip, vae
