"""OSEDiff's one step as a sampler of ComfyUI: z_T is the LATENT itself, and no noise is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from torch import Tensor

from ...osediff_core.denoise import denoise
from ...osediff_core.errors import OptionError
from ...osediff_core.passes import Pass
from ...osediff_core.tiles.grid import Tile
from ...osediff_core.tiles.unet import WHOLE, UNetTiling
from ..checks import check_channels, check_widths, context_width
from ..notices import warn
from ..progress import Clock
from .lora import attachment_of, with_sets
from .regions import acts, conds_of_frame, follow_tiles, has_several_masks, what_cannot_follow
from .sampling import check_sampling, warn_of_other_sigmas
from .unet import NativeUNet, native_schedule


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
        conditioning that does not act at the step.
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
        if len(tiling.lay(height, width)) > 1:
            tiling = _whole_where_needed(model_wrap, tiling)
        tiles = len(tiling.lay(height, width))
        schedule = native_schedule(model.model_sampling, predicts)
        timestep = int(model.model_sampling.timestep(sigmas[:1]))
        warn_of_other_sigmas(sigmas, timestep, found.timestep)
        acting = _where_prompts_act(model_wrap, latent_image, sigmas[:1], timestep)
        with Clock("One-Step Denoise", frames * tiles, quiet=disable_pbar) as clock:
            told = _Told(latent_image, tiles, clock, callback)
            for frame in range(frames):
                latents = latent_image[frame : frame + 1]

                def paint(tile: Tile, cut: Tensor, predicted: Tensor, frame: int = frame) -> None:
                    told.restored[(frame, slice(None), *tile.window)] = schedule.predict_x0(
                        cut, predicted, timestep
                    )[0]

                with conds_of_frame(model_wrap, frame, frames), _sets_of_passes(model_wrap) as enter:
                    on_tile = None if tiling.tile is None else follow_tiles(model_wrap, latents, sigmas[:1])
                    x0 = denoise(
                        NativeUNet(model_wrap, model, extra_args, predicts, on_tile, paint),
                        schedule,
                        timestep,
                        latents,
                        None,
                        tiling=tiling,
                        step=self.strength,
                        progress=told.parts,
                        passes=passes,
                        enter=enter,
                    )
                if acting is not None:
                    x0 = torch.where(acting[frame % len(acting)], x0, latents)
                if denoise_mask is not None:
                    x0 = torch.lerp(latents, x0, denoise_mask[frame % denoise_mask.shape[0]][None].to(x0))
                told.finish_frame(x0)
        return told.restored


class _Told:
    """The batch as far as it is restored, and what ComfyUI's callback and the clock are told of it.

    callback(step, x0, latents, steps) shows x0; a step is a tile, and is never told twice.
    """

    def __init__(
        self,
        latents: Tensor,
        tiles: int,
        clock: Clock,
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
    ) -> None:
        self.restored = latents.clone()
        self._latents, self._tiles, self._clock, self._callback = latents, tiles, clock, callback
        self._frame = self._step = 0

    def parts(self, done: int, of: int) -> None:
        """Of the frame; where memory is short, it begins anew in smaller tiles."""
        if done < of:  # else its end is told with the result
            self._tell(self._frame * self._tiles + done * self._tiles // of)

    def finish_frame(self, x0: Tensor) -> None:
        """x0 (1, C, h, w): the frame's result."""
        self.restored[self._frame] = x0[0]
        self._frame += 1
        self._tell(self._frame * self._tiles)

    def _tell(self, step: int) -> None:
        if step <= self._step:
            return
        self._step = step
        self._clock.update(step)
        if self._callback is None:
            return
        total = len(self._latents) * self._tiles
        frame = (step - 1) // self._tiles
        # ComfyUI's nodes take what is shown last for the whole result
        shown = self.restored if step == total else self.restored[frame : frame + 1]
        self._callback(step - 1, shown, self._latents, total)


def _whole_where_needed(guider: comfy.samplers.CFGGuider, tiling: UNetTiling) -> UNetTiling:
    """Without tiles, and with a warning, where the conditioning cannot be cropped to them."""
    found = what_cannot_follow(guider)
    if not found:
        return tiling
    warn(
        f"The conditioning holds {' and '.join(found)}, which cannot be cropped to tiles, so the step is done whole; "
        "if memory does not suffice, take it out or restore a smaller picture."
    )
    return WHOLE


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
    """Where every conditioning acts at the step, bool (B or 1, h, w); None: everywhere. ComfyUI gives 0 elsewhere.

    latents (B, C, h, w): only where a mask differs from frame to frame are all of them looked at.
    Raises OptionError where one is empty, acts nowhere, or is of another family.
    """
    width, everywhere = context_width(guider.model_patcher), None
    one, frames = latents[:1], len(latents) if has_several_masks(guider) else 1
    for name, conds in getattr(guider, "conds", {}).items():
        if name == "negative" and getattr(guider, "cfg", None) == 1:
            continue  # not computed
        if not conds:
            raise OptionError(
                f"The CONDITIONING at {name} is empty; connect DAPE Prompt or CLIP Text Encode."
            )
        check_widths((cond.get("cross_attn") for cond in conds), width, name)
        total = latents.new_zeros(frames, *latents.shape[-2:])
        for cond in conds:
            for frame in range(frames):
                found = acts(cond, one, sigma, frame)
                if found is not None:
                    total[frame] += found[1]
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
