"""Colour fix: give the restored image back the colours of its input.

One-step diffusion shifts colour and brightness a little; the input's low frequencies are right. Both methods and
their constants are the official code's (my_utils/wavelet_color_fix.py, from StableSR); arithmetic is fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .errors import OptionError

_VARIANCE_EPS = 1e-5  # official; tied to the range [0, 1]
_WAVELET_LEVELS = 5  # official; blurs over up to 2 * (1 + 2 + 4 + 8 + 16) + 1 = 63 pixels


def _mean_std(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per image and channel, over all pixels: (B, C, H, W) -> two of (B, C, 1, 1). Unbiased variance + eps."""
    pixels = image.shape[-2] * image.shape[-1]
    # the unbiased variance of one pixel is 0 / 0; a 1x1 image has no spread
    variance = image.var(dim=(-2, -1), keepdim=True) if pixels > 1 else torch.zeros_like(image)
    return image.mean(dim=(-2, -1), keepdim=True), (variance + _VARIANCE_EPS).sqrt()


def adain(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Adaptive instance normalisation: mean and spread of each channel of `content` become those of `style`.

    content (B, 3, H, W), style (B, 3, H', W'), both in [0, 1] -> (B, 3, H, W), about [0, 1], not clamped.
    """
    content, style = content.float(), style.float()
    content_mean, content_std = _mean_std(content)
    style_mean, style_std = _mean_std(style)
    return (content - content_mean) * (style_std / content_std) + style_mean


def _low_frequencies(image: torch.Tensor) -> torch.Tensor:
    """The a trous low-pass: a [1 2 1]/4 blur in both axes, dilated 1, 2, 4, 8, 16 in turn; edges are replicated."""
    channels = image.shape[1]
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    across = taps.view(1, 1, 1, 3).repeat(channels, 1, 1, 1)
    down = across.transpose(-2, -1)
    for level in range(_WAVELET_LEVELS):
        step = 2**level
        padded = F.pad(image, (step, step, step, step), mode="replicate")
        image = F.conv2d(
            F.conv2d(padded, across, groups=channels, dilation=step), down, groups=channels, dilation=step
        )
    return image


def wavelet(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Replaces the low frequencies of `content` by those of `style`; detail stays.

    content, style (B, 3, H, W), the same shape and range -> the same shape, not clamped. The official code
    sums the detail of five levels; that sum telescopes to content - low(content), and the blur is linear, so
    one pass over the difference gives the same image.
    """
    if content.shape != style.shape:
        raise OptionError(
            f"The wavelet colour fix needs images of one shape, got {tuple(content.shape)} and "
            f"{tuple(style.shape)}; resize the reference first."
        )
    content, style = content.float(), style.float()
    return content + _low_frequencies(style - content)


def _unchanged(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    return content.float()


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "adain": adain,
    "wavelet": wavelet,
    "none": _unchanged,
}


def apply(name: str, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Runs the colour fix `name` (a key of METHODS) on `content` with the colours of `style`.

    content, style (B, 3, H, W) in [0, 1] -> (B, 3, H, W) fp32, clamped to [0, 1]. Raises OptionError on
    another name.
    """
    if name not in METHODS:
        raise OptionError(f"There is no colour fix named {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name](content, style).clamp(0.0, 1.0)
