"""Tiles of the UNet against the whole image: how much work, how far off, and whether tile borders show.

The embedded model on photographs. The seam figure is how much steeper the error (tiled - untiled picture) is across the
borders of tiles than elsewhere: 1 means that borders cannot be told from the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osediff_core import OneStepGenerator
from osediff_core.geometry import resize_clipped
from osediff_core.images import read_image
from osediff_core.tiles.grid import Tile, make_grid
from osediff_core.tiles.unet import UNetTiling

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
SETTINGS = (
    ("official", 96, 32),
    ("balanced", 96, 32),
    ("balanced", 96, 16),
    ("official", 48, 16),
    ("balanced", 48, 16),
    ("balanced", 48, 8),
)


@torch.no_grad()
def measure(size: int, photos: int) -> list[dict[str, Any]]:
    """A row for each setting, with tiles of their own statistics and with shared ones; means over the photos."""
    generator = OneStepGenerator.load("tiny", dtype="fp32", device="cpu")
    embeds, rows = generator.encode_prompt([""]), []
    inputs = [generator.encode(_photo(path, size)) for path in sorted(PHOTOS.glob("*.png"))[:photos]]
    wholes = [generator.decode(generator.denoise(z, embeds)) for z in inputs]
    for grid, tile, overlap in SETTINGS:
        tiles = make_grid(grid, *inputs[0].shape[-2:], tile, overlap)
        for shared in (False, True):
            found = []
            for z, whole in zip(inputs, wholes, strict=True):
                if shared:
                    with statistics_over_tiles(generator.unet.module):
                        x0 = generator.denoise(z, embeds, tiling=UNetTiling(tile, overlap, grid, len(tiles)))
                else:
                    x0 = generator.denoise(z, embeds, tiling=UNetTiling(tile, overlap, grid))
                image = generator.decode(x0)
                psnr = 10 * math.log10(4 / (image - whole).square().mean().item())
                found.append((psnr, seam_energy(image - whole, tiles, generator.vae.downscale)))
            psnr, seam = (sum(values) / len(values) for values in zip(*found, strict=True))
            work = sum(t.height * t.width for t in tiles) / inputs[0][0, 0].numel()
            rows.append(
                {"grid": grid, "tile": tile, "overlap": overlap, "shared": shared, "work": work}
                | {"psnr": psnr, "seam": seam}
            )
    return rows


def seam_energy(error: Tensor, tiles: Sequence[Tile], f: int) -> float:
    """Mean step of the error across the borders of tiles over that elsewhere; f: pixels per latent."""
    on, off = [], []
    for axis, side in ((-1, "width"), (-2, "height")):
        steps = error.diff(dim=axis).abs().mean(dim=[d for d in range(4) if d - 4 != axis])
        starts = [(t.x if axis == -1 else t.y, getattr(t, side)) for t in tiles]
        borders = {edge * f - 1 for start, length in starts for edge in (start, start + length)}
        is_border = torch.tensor([i in borders for i in range(len(steps))])
        on.append(steps[is_border])
        off.append(steps[~is_border])
    return (torch.cat(on).mean() / torch.cat(off).mean()).item()


@contextmanager
def statistics_over_tiles(unet: nn.Module) -> Iterator[None]:
    """Group norms take their statistics over the whole batch, which is all tiles of one image."""

    def shared(norm: nn.GroupNorm) -> Any:  # noqa: ANN401
        def forward(x: Tensor) -> Tensor:
            grouped = x.reshape(x.shape[0], norm.num_groups, -1)
            variance, mean = torch.var_mean(grouped, dim=(0, 2), correction=0, keepdim=True)
            normal = ((grouped - mean) * torch.rsqrt(variance + norm.eps)).reshape(x.shape)
            shape = (1, -1, *[1] * (x.ndim - 2))
            return normal * norm.weight.view(shape) + norm.bias.view(shape)

        return forward

    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    for norm in norms:
        norm.forward = shared(norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _photo(path: Path, size: int) -> Tensor:
    """A crop, four times enlarged, as the model was trained for."""
    rgb = torch.tensor(read_image(path).rgb).permute(2, 0, 1)[None, :, : size // 4, : size // 4]
    return resize_clipped(rgb.contiguous(), (size, size)) * 2 - 1
