"""Pipeline from an image to the restored image: resize -> encode -> denoise -> decode -> colour fix -> alpha."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import color
from .geometry import enlarge, fill_transparent, target_size
from .images.picture import Picture
from .ports import Progress
from .runtime.memory import explain_out_of_memory
from .tiles.unet import UNetTiling
from .tiles.vae import AUTO, VAETiling

if TYPE_CHECKING:
    from .direct.restorer import DirectRestorer
    from .generator import OneStepGenerator


@dataclass(frozen=True)
class RestoreOptions:
    """Options of a restoration; the defaults are the official code's, but nothing is drawn at random.

    scale: output size over input size, any number above 0. size: (width, height) in pixels, wins over scale.
    prompt: what the picture shows; helps the restoration, may be empty. color_fix: adain, wavelet, lab or
    none; color_weight: 1 is the whole fix, 0 none of it.
    tile, overlap: in latents (8 pixels each for Stable Diffusion); larger pictures are denoised in tiles,
    which bounds memory and costs speed, and in smaller ones where memory is short; None or 0 is no tiling; overlap
    None is a third of the tile.
    tile_grid: how tiles are laid. vae: how the VAE is tiled; the size of its tiles changes nothing, pooled
    attention a little.
    sample_posterior: draw the latent from the VAE's posterior, as the official code does, instead of its mode;
    `seed` makes the draw repeatable.
    """

    scale: float = 4.0
    size: tuple[int, int] | None = None
    prompt: str = ""
    color_fix: str = "adain"
    color_weight: float = 1.0
    tile: int | None = 96
    overlap: int | None = None
    tile_grid: str = "official"
    sample_posterior: bool = False
    seed: int = 0
    vae: VAETiling = AUTO

    @property
    def unet(self) -> UNetTiling:
        """Tiles of the UNet."""
        return UNetTiling(self.tile or None, self.overlap, self.tile_grid)

    def target_for(self, picture: Picture) -> tuple[int, int]:
        """The (width, height) that `picture` will get. Raises OptionError if that is not possible."""
        return target_size(*picture.size, scale=None if self.size else self.scale, size=self.size)


def restore_picture(
    generator: OneStepGenerator | DirectRestorer,
    picture: Picture,
    options: RestoreOptions | None = None,
    progress: Progress | None = None,
    prompter: Callable[[Tensor], str] | None = None,
) -> Picture:
    """Restores and enlarges one picture; bit depth, ICC profile, alpha and greyness stay as they were.

    progress(done, total) is called as tiles are done. prompter makes the prompt, instead of options.prompt, from the
    enlarged picture (1, 3, H, W) in [-1, 1], which is what the official code's tagger looks at.
    Raises OptionError, ImageError, OutOfMemory, OutOfDisk, NonFiniteError.
    """
    options = options or RestoreOptions()
    width, height = options.target_for(picture)
    with explain_out_of_memory("resize"):
        source, lq, alpha = _enlarge(picture, (width, height))
    restored = generator.restore(
        lq * 2 - 1,
        options.prompt if prompter is None else prompter(lq * 2 - 1),
        source=source * 2 - 1,
        unet_tiling=options.unet,
        vae_tiling=options.vae,
        sample_posterior=options.sample_posterior,
        generator=torch.Generator().manual_seed(options.seed) if options.sample_posterior else None,
        progress=progress,
    )
    with explain_out_of_memory("colour fix"), torch.inference_mode():
        rgb = (restored.to("cpu", torch.float32) + 1) / 2
        if picture.bits == 8:
            rgb = _to_8_bits(rgb)
        rgb = color.apply(options.color_fix, rgb, lq, options.color_weight)
        if picture.is_grey:
            rgb = color.to_grey(rgb)
        if picture.bits == 8:
            rgb = _to_8_bits(rgb.clamp(0, 1))
        rgb_array = np.ascontiguousarray(rgb[0].permute(1, 2, 0).numpy())
    return replace(picture, rgb=rgb_array, alpha=None if alpha is None else alpha[0, 0].numpy())


def _to_8_bits(image: Tensor) -> Tensor:
    """Values in [0, 1] cut down to multiples of 1/255.

    The official code truncates, before the colour fix and after it; with the same truncation 8-bit results equal its
    own. The small term keeps float error from taking a whole level off an exact value.
    """
    return (image * 255 + 1e-4).floor() / 255


@torch.inference_mode()
def _enlarge(picture: Picture, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
    """The picture's rgb (1, 3, h, w); its rgb and alpha or None at its final size (1, 3 or 1, H, W); all in [0, 1]."""
    rgb = torch.tensor(picture.rgb).permute(2, 0, 1)[None].contiguous()
    alpha = None if picture.alpha is None else torch.tensor(picture.alpha)[None, None]
    filled = rgb if alpha is None else fill_transparent(rgb, alpha)
    return filled, *enlarge(rgb, alpha, size)
