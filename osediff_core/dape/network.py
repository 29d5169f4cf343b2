"""The tagger's network: transformers' Swin, then RAM's tagging head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .config import TaggerConfig
from .head import TaggingHead


class TaggerNetwork(nn.Module):
    """RAM, DAPE (RAM with its LoRA merged) and smaller taggers of the same kind; new ones are initialised for training.

    `embed` and `classify` are its two halves; DAPE's training compares the outputs of both (SeeSR, dape_model.py).
    """

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        from transformers import SwinModel

        self.config = config
        self.swin = SwinModel(config.swin(), add_pooling_layer=False)
        self.image_proj = nn.Linear(config.swin_widths[-1], config.image_width)
        self.label_embed = nn.Embedding(config.tag_count, config.label_width)
        self.head = TaggingHead(config)

    def embed(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, image_size, image_size), ImageNet-normalised -> (B, 1 + tokens, image_width).

        The mean of the tokens comes first; RAM's grid of 12 x 12 gives 145 in all.
        """
        tokens = self.swin(pixels).last_hidden_state
        return self.image_proj(torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1))

    def classify(self, image: Tensor) -> Tensor:
        """image (B, 1 + tokens, image_width), of `embed` -> logits (B, tags)."""
        # by index and not as .weight: whoever swaps the layer for one that streams its weights is then asked for them
        index = torch.arange(self.config.tag_count, device=image.device)
        return self.head(self.label_embed(index).to(image.dtype), image)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, image_size, image_size), ImageNet-normalised -> logits (B, tags)."""
        return self.classify(self.embed(pixels))


class _EmptyParameters(TorchFunctionMode):
    """Mode in which new layers' parameters take no memory (device meta); computed buffers stay real."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - torch's protocol
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def empty_network(config: TaggerConfig) -> TaggerNetwork:
    """The network with parameters on the device meta, at no cost in time and memory, to be loaded with assign=True."""
    with _EmptyParameters(), torch.no_grad():
        return TaggerNetwork(config)
