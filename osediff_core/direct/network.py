"""A network from image to image, as those that restore directly are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..method import Method


class Network(nn.Module):
    """LQ (B, 3, h, w) in [-1, 1], sides multiples of `multiple` -> (B, 3, scale h, scale w), about [-1, 1].

    scale, multiple: as in the port ImageRestorer. method: its facts.
    """

    scale: int
    multiple: int
    method: Method

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether it computes in that precision."""
        return True

    def finish(self, image: Tensor, lq: Tensor) -> Tensor:
        """What the method does to the whole image at the end, by the whole LQ; both in [-1, 1]; fp32, not clamped."""
        return image.float()
