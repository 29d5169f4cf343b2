"""Denoising: the one diffusion step, from the latents of the input to those of the restored image.

z_H = (z_L - sigma_T eps(z_L; T, c_y)) / alpha_T     (paper eq. 1; the LQ latents themselves are z_T)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import OptionError, amount
from .passes import ONE_PASS, Pass
from .ports import NoisePredictor, Progress
from .runtime.stage import run_stage
from .schedule import NoiseSchedule
from .tiles.unet import WHOLE, UNetTiling
from .tiles.unet import predict as predict_in_tiles


def denoise(
    unet: NoisePredictor,
    schedule: NoiseSchedule,
    timestep: int,
    latents: Tensor,
    prompt_embeds: Tensor | None,
    *,
    tiling: UNetTiling = WHOLE,
    step: float = 1.0,
    progress: Progress | None = None,
    passes: Sequence[Pass] = ONE_PASS,
    enter: Callable[[Pass], Tensor | None] | None = None,
) -> Tensor:
    """The step: scaled latents z_L (B, C, h, w), prompt_embeds (B or 1, L, D) -> z_H, scaled, fp32.

    timestep: T, the one that the weights were trained at. prompt_embeds: None for a UNet that holds its own
    conditioning. step: 1 takes the restored latents, 0 leaves those of the input, in between they are blended.
    tiling: large latents are predicted in overlapping tiles and blended, in smaller ones where memory is short.
    progress(done, total): called as tiles are done. passes, enter: as in `predict`. The result is on the UNet's device.
    Raises OptionError for impossible tiles or another number of prompts, OutOfMemory, NonFiniteError.
    """
    model_output = predict(
        unet,
        timestep,
        latents,
        prompt_embeds,
        tiling=tiling,
        progress=progress,
        passes=passes,
        enter=enter,
    )
    latents = latents.to(model_output.device)
    restored = schedule.predict_x0(latents, model_output, timestep)
    return restored if step == 1 else torch.lerp(latents.to(restored), restored, step)


def predict(
    unet: NoisePredictor,
    timestep: int,
    latents: Tensor,
    prompt_embeds: Tensor | None,
    *,
    tiling: UNetTiling = WHOLE,
    progress: Progress | None = None,
    passes: Sequence[Pass] = ONE_PASS,
    enter: Callable[[Pass], Tensor | None] | None = None,
) -> Tensor:
    """The UNet's output at one timestep, whole or blended from tiles, fp32; arguments as in `denoise`.

    passes: what it is the sum of, one pass after the other over all tiles; without any it is zero. enter: called before
    each, readies the UNet for it and gives its prompt_embeds; None: nothing is to be changed.
    """
    latents = latents.contiguous()  # as in `encode`
    batch = latents.shape[0]
    timesteps = torch.full((batch,), timestep, dtype=torch.long, device=latents.device)
    total: Tensor | None = None
    for index, one in enumerate(passes):
        embeds = _one_for_each(prompt_embeds if enter is None else enter(one), batch)
        told = _of_several(progress, index, len(passes))

        def stage(embeds: Tensor | None = embeds, told: Progress | None = told) -> Tensor:
            return predict_in_tiles(unet, latents, timesteps, embeds, tiling, told)

        output = run_stage("denoise", unet, stage)
        output = output if one.weight == 1 else one.weight * output
        total = output if total is None else total + output
    return torch.zeros_like(latents, dtype=torch.float32) if total is None else total


def _of_several(progress: Progress | None, index: int, count: int) -> Progress | None:
    """Progress within pass number `index` of `count`, told as progress of all."""
    if progress is None or count == 1:
        return progress
    return lambda done, total: progress(index * total + done, count * total)


def _one_for_each(prompt_embeds: Tensor | None, batch: int) -> Tensor | None:
    if prompt_embeds is None:
        return None
    if prompt_embeds.shape[0] not in (1, batch):
        raise OptionError(
            f"There are {prompt_embeds.shape[0]} prompts for {amount(batch, 'image')}; give one prompt, or one for "
            "each image."
        )
    return prompt_embeds.expand(batch, -1, -1)
