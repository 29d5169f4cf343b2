"""RAM's tagging head: every label asks the image, by cross-attention, whether it is in there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import TaggerConfig

_EPS = 1e-12  # BERT's, where the head comes from
# Labels times pictures: labels do not see each other, so that parts of them can be taken where memory would grow.
ROWS_AT_ONCE = 2304


class HeadLayer(nn.Module):
    """One BERT layer without self-attention, normalised afterwards.

    h = LN(dense(attention(query = h, key and value = image)) + h);  h = LN(fc2(gelu(fc1(h))) + h)
    """

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        width = config.head_width
        self.heads = config.head_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(config.image_width, width)
        self.value = nn.Linear(config.image_width, width)
        self.dense = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=_EPS)
        self.fc1 = nn.Linear(width, config.head_mlp_width)
        self.fc2 = nn.Linear(config.head_mlp_width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def keys_values(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, T, image_width) -> keys and values (B, heads, T, width / heads), for every label the same."""
        return self._split(self.key(image)), self._split(self.value(image))

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """h (B or 1, N, width) -> (B, N, width)."""
        query = self._split(self.query(h)).expand(keys.shape[0], -1, -1, -1)
        share = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, keys, values, dropout_p=share)
        h = self.attention_norm(self.dropout(self.dense(rearrange(seen, "b heads n d -> b n (heads d)"))) + h)
        return self.mlp_norm(self.dropout(self.fc2(F.gelu(self.fc1(h)))) + h)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (heads d) -> b heads n d", heads=self.heads)


class TaggingHead(nn.Module):
    """Label embeddings and what is seen of an image -> a logit for each label."""

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        self.wordvec_proj = nn.Linear(config.label_width, config.head_width)
        self.layers = nn.ModuleList(HeadLayer(config) for _ in range(config.head_layers))
        self.fc = nn.Linear(config.head_width, 1)

    def forward(self, labels: Tensor, image: Tensor) -> Tensor:
        """labels (N, label_width), image (B, T, image_width) -> logits (B, N)."""
        layers = cast("Iterable[HeadLayer]", self.layers)  # ModuleList names no type of its modules
        seen = [layer.keys_values(image) for layer in layers]
        parts = labels.split(max(1, ROWS_AT_ONCE // len(image)))
        return torch.cat([self._logits(part, seen) for part in parts], dim=1)

    def _logits(self, labels: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        # (1, N, width): the first queries are the same for every image
        h = F.relu(self.wordvec_proj(labels)).unsqueeze(0)
        for layer, (keys, values) in zip(self.layers, seen, strict=True):
            h = layer(h, keys, values)
        return self.fc(h).squeeze(-1)
