"""Features of crops for a distance of two sets of images: what they look like, not which is which.

As of KID and FID, but by EfficientNet-Lite2, which installs with pip and is not trained on: the classifier's last
feature maps, averaged over positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically
from osediff_core.evaluate.perceptual import efficientnet_lite

from ..data.pictures import to_tensor

FEATURES = "features.safetensors"  # in a run's folder: "PROMPTING/SET/PICTURE" -> (crops, channels), fp16
INPUT, TRUTH = "input", "truth"  # instead of a prompting


class CropFeatures:
    """uint8 (H, W, 3) -> (crops, channels): of `across` x `across` equal crops."""

    def __init__(self, across: int = 2) -> None:
        self.across, self.net = across, efficientnet_lite(2)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Tensor:
        """The class's docstring."""
        crops = to_tensor(np.stack(list(crops_of(image, self.across))))
        return self.net.extract_features(crops).mean(dim=(2, 3)).half()


def crops_of(image: np.ndarray, across: int) -> Iterator[np.ndarray]:
    """Row by row; what does not divide evenly is left out at the right and bottom."""
    height, width = (side // across for side in image.shape[:2])
    for row in range(across):
        for column in range(across):
            yield image[row * height : (row + 1) * height, column * width : (column + 1) * width]


def write_features(run: Path, features: dict[str, Tensor]) -> None:
    """The run's file."""
    write_bytes_atomically(run / FEATURES, save({name: f.contiguous() for name, f in features.items()}))


def read_features(run: Path) -> dict[str, Tensor]:
    """The file's content in fp64; nothing where there is none that can be read."""
    try:
        return {name: f.double() for name, f in load_file(run / FEATURES).items()}
    except (OSError, SafetensorError):
        return {}
