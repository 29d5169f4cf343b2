"""Words for how an image looks, measured on its pixels: brightness, colour, texture."""

from __future__ import annotations

import colorsys

import numpy as np

HUES = (
    (15, "red"),
    (42, "orange"),
    (68, "yellow"),
    (165, "green"),
    (260, "blue"),
    (320, "purple"),
    (361, "red"),
)
APPEARANCE = (
    "black and white",
    "colorful",
    "dark",
    "bright",
    "blurry",
    "texture",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
)


def appearance_tags(picture: np.ndarray) -> list[str]:
    """Words for brightness, colour and texture of a uint8 (H, W, 3) picture."""
    grey = picture.mean(axis=2)
    red, green, blue = (picture.reshape(-1, 3).mean(axis=0) / 255).tolist()
    saturation = np.ptp(picture.astype(np.float32), axis=2).mean() / 255
    hue = colorsys.rgb_to_hsv(red, green, blue)[0] * 360
    texture = np.abs(np.diff(grey, axis=1)).mean()
    tags = ["black and white"] if saturation < 0.02 else ["colorful"] if saturation > 0.35 else []
    tags += ["dark"] if grey.mean() < 60 else ["bright"] if grey.mean() > 190 else []
    tags += [next(name for limit, name in HUES if hue < limit)] if saturation > 0.08 else []
    return tags + (["blurry"] if texture < 1.5 else ["texture"] if texture > 10 else [])
