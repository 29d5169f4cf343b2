"""One-Step Denoise, and the same step as SAMPLER and SIGMAS for ComfyUI's own sampling nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
import comfy.sample
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..osediff_core.errors import OptionError
from ..osediff_core.tiles.grid import check_tile, needs_tiles
from ..osediff_core.tiles.unet import UNetTiling, tiles_at_once
from .checks import check_channels, check_model, check_widths, context_width, latent_samples
from .inputs import overlap_input, tile_input
from .native.lora import attachment_of
from .native.sampler import OneStepSampler
from .notices import as_output, warnings_gathered
from .sources import sources_of, warn_of_changed, with_sources


def step_inputs() -> list[io.Input]:
    """Inputs of the step, the same for the node and for the sampler."""
    return [
        tile_input(),
        overlap_input("latents"),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.5,
            step=0.05,
            tooltip="How much of the restoration is taken: 1 all of it, 0 the latents as they came, between a blend.",
        ),
    ]


class OneStepDenoise(io.ComfyNode):
    """z_H = (z_L - sigma_T eps) / alpha_T."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """MODEL, CONDITIONING, LATENT -> LATENT."""
        return io.Schema(
            node_id="OSEDiff_Denoise",
            display_name="One-Step Denoise (OSEDiff)",
            category="OSEDiff",
            description="Restores latents in one diffusion step, without added noise. Takes the LATENT of Encode LQ, "
            "of ComfyUI's VAE Encode or of a sampler.",
            search_aliases=["osediff", "one step", "ksampler", "restore latent"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Load OSEDiff or Apply OSEDiff."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="What the picture shows, of DAPE Prompt or CLIP Text Encode; may be empty text. PiSA-SR "
                    "and OMGSR-S were trained with empty text, S3Diff with two fixed ones.",
                ),
                io.Latent.Input(
                    "latent", tooltip="What is to be restored. A noise mask restricts it to a region."
                ),
                *step_inputs(),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Guidance away from the negative conditioning; 1 is none, as OSEDiff was trained, and half "
                    "the work.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What the picture shall not show; needed only if cfg is not 1.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The restored latents, for Tiled Decode or any decoder.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: list[Any],
        latent: dict[str, Any],
        tile: int,
        overlap: int,
        strength: float,
        cfg: float,
        negative: list[Any] | None = None,
    ) -> io.NodeOutput:
        """Raises OptionError for a MODEL without OSEDiff, impossible tiles, cfg without a negative, or what belongs to
        another family; BaseModelError and ImageError for what is no MODEL and no picture's LATENT."""
        check_model(model)
        sigmas = one_step_sigmas(model)
        sampler = make_sampler(tile, overlap, strength)
        if cfg != 1 and negative is None:
            raise OptionError(
                f"A cfg of {cfg:g} needs a negative conditioning; connect one, or set cfg to 1."
            )
        width = context_width(model)
        for socket, conditioning in (("positive", positive), ("negative", negative or [])):
            check_widths((embeds for embeds, _ in conditioning), width, socket)
        samples = comfy.sample.fix_empty_latent_channels(
            model, latent_samples(latent), latent.get("downscale_ratio_spacial")
        )
        check_channels(samples, model.model.latent_format.latent_channels, "MODEL")
        with warnings_gathered() as warnings:
            sources = sources_of(latent)
            warn_of_changed(latent, sources)
            restored = comfy.sample.sample_custom(
                _with_true_memory_needs(model, samples, tile),
                torch.zeros_like(samples),
                cfg,
                sampler,
                sigmas,
                positive,
                positive if negative is None else negative,
                samples,
                noise_mask=latent.get("noise_mask"),
                callback=latent_preview.prepare_callback(model, 1),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            )
        out = {key: value for key, value in latent.items() if key != "downscale_ratio_spacial"}
        return io.NodeOutput(with_sources({**out, "samples": restored}, sources), ui=as_output(warnings))


class OSEDiffSampler(io.ComfyNode):
    """The same step for those who build their sampling from parts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """MODEL -> SAMPLER, SIGMAS."""
        return io.Schema(
            node_id="OSEDiff_Sampler",
            display_name="OSEDiff Sampler",
            category="OSEDiff",
            description="The step of One-Step Denoise as SAMPLER and SIGMAS, for SamplerCustomAdvanced with any "
            "guider. Noise is ignored: connect DisableNoise.",
            search_aliases=["osediff", "custom sampler", "sigmas"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The MODEL of Load OSEDiff or Apply OSEDiff; it knows the timestep of its weights.",
                ),
                *step_inputs(),
            ],
            outputs=[io.Sampler.Output(), io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, tile: int, overlap: int, strength: float) -> io.NodeOutput:
        """Raises OptionError for a MODEL without OSEDiff or impossible tiles, BaseModelError for none."""
        check_model(model)
        return io.NodeOutput(make_sampler(tile, overlap, strength), one_step_sigmas(model))


def make_sampler(tile: int, overlap: int, strength: float) -> OneStepSampler:
    """Raises OptionError for impossible tiles, before anything is loaded."""
    if tile:
        check_tile(tile, overlap)
    return OneStepSampler(UNetTiling(tile or None, overlap), strength)


def one_step_sigmas(model: ModelPatcher) -> Tensor:
    """[sigma_T, 0] for the timestep T that the MODEL's weights were trained at."""
    sigmas = model.get_model_object("model_sampling").get_buffer("sigmas")
    timestep = attachment_of(model).timestep
    if timestep >= len(sigmas):
        raise OptionError(
            f"The weights are for timestep {timestep}, but this MODEL's schedule ends at {len(sigmas) - 1}; use "
            "weights and a base that belong together."
        )
    return torch.stack([sigmas[timestep].float().cpu(), torch.zeros(())])


def _with_true_memory_needs(model: ModelPatcher, samples: Tensor, tile: int) -> ModelPatcher:
    """A clone for which ComfyUI makes room for what the UNet sees at once, instead of for the whole batch.

    That is one frame, or as many of its tiles as the generator takes together on this device.
    """
    at_once, (height, width) = 1, samples.shape[-2:]
    if tile and needs_tiles(height, width, tile):
        at_once, height, width = tiles_at_once(model.load_device), tile, tile
    shape = [at_once, samples.shape[1], height, width]

    def prepare(
        executor: Callable[..., object],
        patcher: ModelPatcher,
        noise_shape: object,
        *args: object,
        **kwargs: object,
    ) -> object:
        return executor(patcher, shape, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "osediff", prepare)
    return model
