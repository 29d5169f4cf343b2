"""Sharpness of an image relative to the good one: what MSE takes away first."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
_LUMA = torch.tensor([0.299, 0.587, 0.114])


def sharpness(image: np.ndarray, truth: np.ndarray) -> float:
    """The standard deviation of luma's Laplacian, divided by the truth's; uint8 (H, W, 3). 1: as sharp; noise counts,
    too."""
    of_truth = _energy(truth)
    return _energy(image) / of_truth if of_truth else float("nan")


def _energy(image: np.ndarray) -> float:
    luma: Tensor = torch.from_numpy(image.astype(np.float32)) @ _LUMA
    return float(F.conv2d(luma[None, None], _LAPLACIAN).std(correction=0))
