"""A noise predictor over overlapping tiles: bounded memory for latents of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .ports import NoisePredictor
from .tiling import Tile, gaussian_weights

Progress = Callable[[int, int], None]


def predict_tiled(
    unet: NoisePredictor,
    latents: Tensor,
    timesteps: Tensor,
    prompt_embeds: Tensor | None,
    tiles: Sequence[Tile],
    batch: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """The prediction for whole latents, blended from tiles with the official Gaussian weights.

    latents (B, C, h, w), timesteps (B,), prompt_embeds (B, L, D) or None -> fp32 (B, C, h, w).
    tiles: equally large and together covering the latents. batch: how many tiles go through the UNet at once
    (more is faster on an accelerator and takes more memory).
    progress(done, total) is called after each batch; it may raise to stop the work.
    With a single tile over everything the result is that of the UNet itself.
    """
    n = latents.shape[0]
    # The weights fall to 1e-11 at a tile's corners, so they are normalised in float64 before they meet the
    # prediction; what is then summed lies in [0, 1].
    weights = gaussian_weights(tiles[0].height, tiles[0].width)
    total = torch.zeros(latents.shape[-2:], dtype=torch.float64)
    for tile in tiles:
        total[tile.window] += weights

    blended = torch.zeros(latents.shape, dtype=torch.float32, device=latents.device)
    for start in range(0, len(tiles), batch):
        group = tiles[start : start + batch]
        k = len(group)
        cut = torch.cat([latents[(..., *tile.window)] for tile in group])  # (k B, C, tile_h, tile_w)
        embeds = None if prompt_embeds is None else prompt_embeds.repeat(k, 1, 1)
        predicted = unet(cut, timesteps.repeat(k), embeds).float()
        for tile, part in zip(group, predicted.split(n), strict=True):
            share = (weights / total[tile.window]).to(latents.device, torch.float32)
            blended[(..., *tile.window)] += part * share
        if progress is not None:
            progress(start + k, len(tiles))
    return blended
