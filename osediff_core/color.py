"""Colour fixes: the restored image gets back the colours of its input.

One-step diffusion shifts colour and brightness a little; the input's low frequencies are right. `adain`, `wavelet`
and their constants are the official code's (my_utils/wavelet_color_fix.py, from StableSR); arithmetic is fp32.
Another fix is a function here and its line in METHODS; torch is imported late, as options are made from METHODS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_VARIANCE_EPS = 1e-5  # official; tied to the range [0, 1]
_WAVELET_LEVELS = 5  # official; blurs over up to 2 * (1 + 2 + 4 + 8 + 16) + 1 = 63 pixels


def _mean_std(image: Tensor) -> tuple[Tensor, Tensor]:
    """Per image and channel, over all pixels: (B, C, H, W) -> two of (B, C, 1, 1). Unbiased variance + eps."""
    pixels = image.shape[-2] * image.shape[-1]
    # the unbiased variance of one pixel is 0 / 0; a 1x1 image has no spread
    variance = image.var(dim=(-2, -1), keepdim=True) if pixels > 1 else image.new_zeros(image.shape)
    return image.mean(dim=(-2, -1), keepdim=True), (variance + _VARIANCE_EPS).sqrt()


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Adaptive instance normalisation: mean and spread of each channel of `content` become those of `style`.

    content (B, 3, H, W), style (B, 3, H', W'), both in [0, 1] -> (B, 3, H, W), about [0, 1], not clamped.
    """
    content, style = content.float(), style.float()
    content_mean, content_std = _mean_std(content)
    style_mean, style_std = _mean_std(style)
    return (content - content_mean) * (style_std / content_std) + style_mean


def _low_frequencies(image: Tensor) -> Tensor:
    """The a trous low-pass: a [1 2 1]/4 blur in both axes, dilated 1, 2, 4, 8, 16 in turn; edges are replicated."""
    import torch.nn.functional as F

    channels = image.shape[1]
    taps = image.new_tensor([0.25, 0.5, 0.25])
    across = taps.view(1, 1, 1, 3).repeat(channels, 1, 1, 1)
    down = across.transpose(-2, -1)
    for level in range(_WAVELET_LEVELS):
        step = 2**level
        padded = F.pad(image, (step, step, step, step), mode="replicate")
        image = F.conv2d(
            F.conv2d(padded, across, groups=channels, dilation=step), down, groups=channels, dilation=step
        )
    return image


def wavelet(content: Tensor, style: Tensor) -> Tensor:
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


def lab(content: Tensor, style: Tensor) -> Tensor:
    """`adain` in CIELAB (Reinhard et al. 2001, "Color transfer between images", there in l alpha beta).

    Lightness and the two colour axes are nearly independent in natural images, so a shift of the hue is
    undone without one of the brightness. content (B, 3, H, W), style (B, 3, H', W'), both in [0, 1] ->
    (B, 3, H, W), about [0, 1], not clamped.
    """
    from .cielab import lab_to_rgb, rgb_to_lab

    return lab_to_rgb(adain(rgb_to_lab(content.float()), rgb_to_lab(style.float())))


def to_grey(image: Tensor) -> Tensor:
    """(B, 3, H, W) with the luma of ITU-R BT.601, as Pillow's "L", in all three channels."""
    luma = image.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (image * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def _unchanged(content: Tensor, style: Tensor) -> Tensor:
    return content.float()


class ColorFix(NamedTuple):
    """fix: (content, style) -> content with the colours of style, not clamped. summary: what it gives back of them."""

    fix: Callable[[Tensor, Tensor], Tensor]
    summary: str


METHODS = {
    "adain": ColorFix(adain, "mean and spread of each channel"),
    "wavelet": ColorFix(wavelet, "the low frequencies"),
    "lab": ColorFix(lab, "mean and spread in CIELAB"),
    "none": ColorFix(_unchanged, "colours as decoded"),
}


def apply(name: str, content: Tensor, style: Tensor, weight: float = 1.0) -> Tensor:
    """Runs the colour fix `name` (a key of METHODS) on `content` with the colours of `style`.

    content, style (B, 3, H, W) in [0, 1] -> (B, 3, H, W) fp32, clamped to [0, 1]. weight: 1 is the fix, 0
    none, anything between a blend of the two. Raises OptionError on another name.
    """
    if name not in METHODS:
        raise OptionError(f"There is no colour fix named {name!r}; choose one of {', '.join(METHODS)}.")
    fixed = METHODS[name].fix(content, style)
    if weight != 1:
        fixed = content.float().lerp(fixed, weight)
    return fixed.clamp(0.0, 1.0)
