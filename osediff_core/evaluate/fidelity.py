"""PSNR and SSIM on luma without border crop, as OSEDiff's figures were made (pyiqa's settings), by torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # BT.601, RGB in [0, 1] -> Y - 16/255
SSIM_WINDOW = 11  # px
_BAND = 2**15  # windows of one picture at a time


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
    # in fp64, as flat pictures exceed 1 in fp32; in bands, as torch's fp64 convolution needs 121 values for each pixel
    levels = [(luma(x.double()) * 255).round() for x in (image, reference)]
    height, width = image.shape[-2:]
    margin = SSIM_WINDOW // 2
    rows = max(1, _BAND // width)
    found = []
    for top in range(0, height - 2 * margin, rows):
        band = [x[..., top : top + rows + 2 * margin, :] for x in levels]
        _, each_window = structural_similarity_index_measure(
            *band, data_range=255.0, reduction="none", return_full_image=True
        )
        found.append(each_window[..., margin:-margin, margin:-margin].clamp(min=0))
    return torch.cat(found, dim=-2).mean(dim=(1, 2, 3)).float()
