"""Photographs in other colours: what a tag of colour or brightness needs is not in a hundred photographs."""

from __future__ import annotations

import numpy as np
from PIL import Image

SATURATION = (0.2, 2.0)  # factors
BRIGHTNESS = (0.3, 1.8)


def recoloured(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (N, H, W, 3) -> the same shape: each with its hues turned, its saturation and brightness scaled."""
    found = np.empty_like(images)
    for n, image in enumerate(images):
        hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 256)) % 256
        hsv[..., 1] *= rng.uniform(*SATURATION)
        hsv[..., 2] *= rng.uniform(*BRIGHTNESS)
        whole = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV")
        found[n] = np.asarray(whole.convert("RGB"))
    return found
