"""CIELAB: sRGB images in axes of lightness and colour, and back."""

from __future__ import annotations

import torch

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
