"""Peak signal-to-noise ratios of image batches; the feature distance D2 is in `perceptual.py`."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # BT.601, RGB in [0, 1] -> Y - 16/255


def luma(image: Tensor) -> Tensor:
    """Y of YCbCr (B, 1, H, W) in [16/255, 235/255] from RGB (B, 3, H, W) in [-1, 1]."""
    weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1)
    return ((image + 1) / 2 * weights).sum(dim=1, keepdim=True) + 16 / 255


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """PSNR on RGB in dB of each pair, (B, 3, H, W) in [-1, 1] -> (B,)."""
    return peak_signal_noise_ratio(image, reference, data_range=2.0, reduction="none", dim=(1, 2, 3))


def psnr_y(image: Tensor, reference: Tensor) -> Tensor:
    """PSNR on luma in dB of each pair, (B, 3, H, W) in [-1, 1] -> (B,); no border is cropped."""
    return peak_signal_noise_ratio(
        luma(image), luma(reference), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
