"""PSNR and SSIM on luma without border crop, as OSEDiff's scores were made (pyiqa's settings), by torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # BT.601, RGB in [0, 1] -> Y - 16/255
SSIM_WINDOW = 11  # px
_TILE = 48  # windows across and down, computed at a time


def luma(image: Tensor) -> Tensor:
    """Y of YCbCr (B, 1, H, W) in [16/255, 235/255] from RGB (B, 3, H, W) in [-1, 1]."""
    weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1)
    return ((image + 1) / 2 * weights).sum(dim=1, keepdim=True) + 16 / 255


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """PSNR on RGB in dB of each pair, (B, 3, H, W) in [-1, 1] -> (B,)."""
    return peak_signal_noise_ratio(image, reference, data_range=2.0, reduction="none", dim=(1, 2, 3))


def psnr_y(image: Tensor, reference: Tensor) -> Tensor:
    """PSNR on luma in dB of each pair, (B, 3, H, W) in [-1, 1] -> (B,); infinite for equal pictures."""
    return peak_signal_noise_ratio(
        luma(image), luma(reference), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )


def ssim_y(image: Tensor, reference: Tensor) -> Tensor:
    """SSIM on luma of each pair, (B, 3, H, W) in [-1, 1] -> (B,); both sides at least SSIM_WINDOW.

    As in pyiqa: luma rounded to whole levels, only windows that lie inside the picture, and a window whose structures
    are opposed counts as 0, not below it.
    """
    # in fp64, as flat pictures exceed 1 in fp32; in tiles, as torch's fp64 convolution is five times as fast on them
    levels = [(luma(x.double()) * 255).round() for x in (image, reference)]
    height, width = (side - SSIM_WINDOW + 1 for side in image.shape[-2:])
    total = torch.zeros(image.shape[0], dtype=torch.float64, device=image.device)
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            area = slice(top, top + _TILE + SSIM_WINDOW - 1), slice(left, left + _TILE + SSIM_WINDOW - 1)
            total += _ssim_windows(*(x[(..., *area)] for x in levels)).sum(dim=(1, 2, 3))
    return (total / (height * width)).float()


def _ssim_windows(image: Tensor, reference: Tensor) -> Tensor:
    """SSIM of every window inside two pictures (B, 1, H, W) in levels -> (B, 1, H - 10, W - 10)."""
    _, windows = structural_similarity_index_measure(
        image, reference, data_range=255.0, reduction="none", return_full_image=True
    )
    margin = SSIM_WINDOW // 2
    return windows[..., margin:-margin, margin:-margin].clamp(min=0)
