"""Colour fix: give the restored image back the colours of its input.

One-step diffusion shifts colour and brightness a little; the input's low frequencies are right. `adain`, `wavelet`
and their constants are the official code's (my_utils/wavelet_color_fix.py, from StableSR); arithmetic is fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .errors import OptionError

_LUMA = (0.299, 0.587, 0.114)
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


# sRGB (IEC 61966-2-1) to CIE XYZ relative to its white point D65, so that white is (1, 1, 1).
_RGB_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_LAB_KNEE = 6 / 29


def rgb_to_lab(image: torch.Tensor) -> torch.Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIELAB under D65: L in [0, 100], a and b about [-128, 128]."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    xyz = _mix(linear, torch.tensor(_RGB_TO_XYZ))
    f = torch.where(
        xyz > _LAB_KNEE**3, xyz.clamp_min(_LAB_KNEE**3) ** (1 / 3), xyz / (3 * _LAB_KNEE**2) + 4 / 29
    )
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """The inverse of `rgb_to_lab`; colours outside sRGB leave [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    xyz = torch.where(f > _LAB_KNEE, f**3, 3 * _LAB_KNEE**2 * (f - 4 / 29))
    linear = _mix(xyz, torch.tensor(_RGB_TO_XYZ, dtype=torch.float64).inverse().float())
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )


def _mix(image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,bchw->bohw", matrix.to(image), image)


def lab(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """`adain` in CIELAB (Reinhard et al. 2001, "Color transfer between images", there in l alpha beta).

    Lightness and the two colour axes are nearly independent in natural images, so a shift of the hue is
    undone without one of the brightness. content (B, 3, H, W), style (B, 3, H', W'), both in [0, 1] ->
    (B, 3, H, W), about [0, 1], not clamped.
    """
    return lab_to_rgb(adain(rgb_to_lab(content.float()), rgb_to_lab(style.float())))


def to_grey(image: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) with the luma of ITU-R BT.601, as Pillow's "L", in all three channels."""
    luma = torch.tensor(_LUMA).to(image).view(1, 3, 1, 1)
    return (image * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def _unchanged(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    return content.float()


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "adain": adain,
    "wavelet": wavelet,
    "lab": lab,
    "none": _unchanged,
}


def apply(name: str, content: torch.Tensor, style: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Runs the colour fix `name` (a key of METHODS) on `content` with the colours of `style`.

    content, style (B, 3, H, W) in [0, 1] -> (B, 3, H, W) fp32, clamped to [0, 1]. weight: 1 is the fix, 0
    none, anything between a blend of the two. Raises OptionError on another name.
    """
    if name not in METHODS:
        raise OptionError(f"There is no colour fix named {name!r}; choose one of {', '.join(METHODS)}.")
    fixed = METHODS[name](content, style)
    if weight != 1:
        fixed = torch.lerp(content.float(), fixed, weight)
    return fixed.clamp(0.0, 1.0)
