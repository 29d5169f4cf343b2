"""OSEDiff's one step as a sampler of ComfyUI: z_T is the LATENT itself, and no noise is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from ...osediff_core.denoise import denoise
from ...osediff_core.errors import OptionError
from ...osediff_core.passes import Pass
from ...osediff_core.tiles.unet import UNetTiling
from ..checks import check_channels, check_widths, context_width
from ..notices import warn
from .lora import attachment_of, with_sets
from .sampling import check_sampling, warn_of_other_sigmas
from .unet import NativeUNet, native_schedule

# What a conditioning may hold that lies somewhere in the picture, and that a tile would see in the wrong place.
_REGIONAL = ("area", "mask", "control", "gligen")


class OneStepSampler(comfy.samplers.Sampler):
    """The step at the timestep of sigmas[0], one frame after the other, in tiles where a frame is large.

    strength: 1 is the restored latents, 0 those of the input, between them a blend. Noise is ignored. A noise mask
    restricts the restoration to where it is 1.
    """

    def __init__(self, tiling: UNetTiling, strength: float = 1.0) -> None:
        self.tiling, self.strength = tiling, strength

    def sample(
        self,
        model_wrap: comfy.samplers.CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Scaled latents (B, C, h, w) -> restored ones. ComfyUI calls this; `callback` shows the progress.

        Raises OptionError for a MODEL without OSEDiff, impossible tiles, latents or prompts of another family, and
        conditioning that tiles cannot follow or that does not act at the step.
        """
        # a guider may have been given another MODEL than the sampler
        found = attachment_of(model_wrap.model_patcher)
        predicts = "residual" if found.rule == "residual" else "sample"
        tiling = replace(self.tiling, centred=found.method.centred_tiles)
        passes = found.passes
        model = model_wrap.inner_model
        check_channels(latent_image, model.latent_format.latent_channels, "MODEL")
        check_sampling(model_wrap.model_patcher, found.timestep)
        frames, _, height, width = latent_image.shape
        tiles = len(tiling.lay(height, width))
        if tiles > 1:
            _refuse_regional(model_wrap)
        unet = NativeUNet(model_wrap, model, extra_args, predicts)
        schedule = native_schedule(model.model_sampling, predicts)
        timestep = int(model.model_sampling.timestep(sigmas[:1]))
        warn_of_other_sigmas(sigmas, timestep, found.timestep)
        acting = _where_prompts_act(model_wrap, latent_image[:1], sigmas[:1], timestep)
        total = frames * tiles
        restored = latent_image.clone()
        for frame in range(frames):

            def show(done: int, of: int, frame: int = frame) -> None:
                step = done * tiles // of  # where memory was short there are more tiles than were laid
                if callback is not None and 0 < step < tiles:
                    callback(frame * tiles + step - 1, restored[frame : frame + 1], latent_image, total)

            latents = latent_image[frame : frame + 1]
            with _conds_of_frame(model_wrap, frame, frames), _sets_of_passes(model_wrap) as enter:
                x0 = denoise(
                    unet,
                    schedule,
                    timestep,
                    latents,
                    None,
                    tiling=tiling,
                    step=self.strength,
                    progress=show,
                    passes=passes,
                    enter=enter,
                )
            if acting is not None:
                x0 = torch.where(acting, x0, latents)
            if denoise_mask is not None:
                x0 = torch.lerp(latents, x0, denoise_mask[frame % denoise_mask.shape[0]][None].to(x0))
            restored[frame : frame + 1] = x0
            if callback is not None:
                shown = restored if frame + 1 == frames else restored[frame : frame + 1]
                callback((frame + 1) * tiles - 1, shown, latent_image, total)
        return restored


@contextmanager
def _sets_of_passes(guider: comfy.samplers.CFGGuider) -> Iterator[Callable[[Pass], None]]:
    """Inside this context, what readies the guider's MODEL for a pass: the LoRA sets that act in it."""
    own = current = guider.model_patcher
    of_sets = {}  # ComfyUI holds patchers weakly, and one that is gone is one to unload

    def load(patcher: comfy.model_patcher.ModelPatcher) -> None:
        nonlocal current
        if patcher is not current:
            comfy.model_management.load_models_gpu([patcher])
            patcher.pre_run()
            current = patcher

    def enter(one: Pass) -> None:
        if one.sets is None:
            load(own)
            return
        if one.sets not in of_sets:
            of_sets[one.sets] = with_sets(own, one.sets)
        load(of_sets[one.sets])

    try:
        yield enter
    finally:
        load(own)


def _where_prompts_act(
    guider: comfy.samplers.CFGGuider, latents: Tensor, sigma: Tensor, timestep: int
) -> Tensor | None:
    """Where every conditioning acts at the step, bool (1, C, h, w); None: everywhere. ComfyUI gives 0 elsewhere.

    Raises OptionError where one is empty, acts nowhere, or is of another family.
    """
    width, everywhere = context_width(guider.model_patcher), None
    for name, conds in getattr(guider, "conds", {}).items():
        if name == "negative" and getattr(guider, "cfg", None) == 1:
            continue  # not computed
        if not conds:
            raise OptionError(
                f"The CONDITIONING at {name} is empty; connect DAPE Prompt or CLIP Text Encode."
            )
        check_widths((cond.get("cross_attn") for cond in conds), width, name)
        total = torch.zeros_like(latents)
        for cond in conds:
            plain = {
                key: value for key, value in cond.items() if key != "gligen"
            }  # which would set itself up
            part = comfy.samplers.get_area_and_mult(plain, latents, sigma)
            if part is not None:
                _area_of(total, part.area).add_(part.mult.to(total))
        if not bool(total.any()):
            raise OptionError(
                f"The CONDITIONING at {name} does not act at timestep {timestep}, where the step is taken; "
                "widen its timestep range, its mask or its strength, or combine it with one that acts."
            )
        if not bool(total.all()):
            warn(
                f"The CONDITIONING at {name} acts on a part of the picture only, and the rest stays as it came; "
                "combine it with a prompt for the whole picture (Conditioning Combine)."
            )
            everywhere = (total != 0) if everywhere is None else everywhere & (total != 0)
    return everywhere


def _area_of(latents: Tensor, area: list[int] | None) -> Tensor:
    """The part of (B, C, h, w) that ComfyUI's area (height, width, top, left) means."""
    if area is None:
        return latents
    height, width, top, left = area
    return latents[..., top : top + height, left : left + width]


def _refuse_regional(guider: comfy.samplers.CFGGuider) -> None:
    for conds in getattr(guider, "conds", {}).values():
        for cond in conds:
            found = [name for name in _REGIONAL if cond.get(name) is not None]
            if found:
                raise OptionError(
                    f"The conditioning holds {' and '.join(found)}, which cannot follow the tiles; set tile to 0, "
                    "or use conditioning for the whole picture."
                )


@contextmanager
def _conds_of_frame(guider: comfy.samplers.CFGGuider, frame: int, frames: int) -> Iterator[None]:
    """Inside this context the guider's conditioning is that of one frame: with a prompt for each, its own."""
    kept = getattr(guider, "conds", None)
    if frames == 1 or kept is None:
        yield
        return
    guider.conds = {name: [_of_frame(cond, frame) for cond in conds] for name, conds in kept.items()}
    try:
        yield
    finally:
        guider.conds = kept


def _of_frame(cond: dict[str, Any], frame: int) -> dict[str, Any]:
    def narrow(part: comfy.conds.CONDRegular) -> comfy.conds.CONDRegular:
        whole = part.cond
        if isinstance(part, comfy.conds.CONDConstant) or not torch.is_tensor(whole) or whole.shape[0] == 1:
            return part
        index = frame % whole.shape[0]
        return part._copy_with(whole[index : index + 1])

    return {**cond, "model_conds": {name: narrow(part) for name, part in cond["model_conds"].items()}}
