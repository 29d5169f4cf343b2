"""CodeFormer's degradation of faces (arXiv 2206.11253): draw one picture's steps."""

from __future__ import annotations

import numpy as np

from .parameters import Blur, Jpeg, Noise, Resize, Step
from .preset import CodeFormer
from .realesrgan import draw_kernel


def draw(recipe: CodeFormer, size: tuple[int, int], rng: np.random.Generator) -> tuple[list[Step], Resize]:
    """The steps for a picture of `size` = (width, height), and the way back.

    The picture that is compressed is `shrink` times smaller, whatever the scale, and is enlarged from there at once.
    """
    kernel = draw_kernel(recipe.blur, rng)
    factor = rng.uniform(*recipe.shrink)
    small = (max(1, int(size[0] // factor)), max(1, int(size[1] // factor)))
    noise = Noise("gaussian", rng.uniform(*recipe.noise), grey=False, seed=int(rng.integers(2**32)))
    quality = min(int(rng.uniform(*recipe.jpeg)), 100)
    return [Blur(kernel), Resize("bilinear", small), noise, Jpeg(quality)], Resize("bilinear", size)
