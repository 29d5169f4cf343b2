"""RAM as one would write it at first: transformers' SwinModel, BERT's layers in plain PyTorch, the file read whole."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_SWIN = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    "layers": "encoder.layers",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
_NEW = {"attn.proj": "attention.o_proj", "attn.rel": "attention.relative_position_bias.rel"}
_OLD = {
    "attn.proj": "attention.output.dense",
    "attn.rel": "attention.self.rel",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


class PlainTagger:
    """logits(pixels) of `ram_swin_large_14m.pth`, all labels at once."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        from transformers import SwinConfig, SwinModel

        config = SwinConfig(
            image_size=384, embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12
        )
        self.swin = SwinModel(config, add_pooling_layer=False).eval()
        self.weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["model"]
        swin = {n.removeprefix("visual_encoder."): t for n, t in self.weights.items() if n.startswith("vis")}
        missing, unexpected = self.swin.load_state_dict(self._renamed(swin), strict=False)
        if unexpected or any("index" not in name for name in missing):
            raise ValueError(f"missing {missing}, unexpected {unexpected}")
        self.swin.to(dtype)
        self.weights = {
            n: t.to(dtype) for n, t in self.weights.items() if not n.startswith("visual_encoder.")
        }

    def _renamed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        new = any("q_proj" in name for name in self.swin.state_dict())
        qkv = "attention.{}_proj" if new else "attention.self.{}"
        parts = ("q", "k", "v") if new else ("query", "key", "value")
        renamed = {}
        for name, tensor in tensors.items():
            if name.endswith(("relative_position_index", "attn_mask")):
                continue
            for old, own in (_SWIN | (_NEW if new else _OLD)).items():
                name = name.replace(old, own)
            if name.startswith("norm."):
                name = f"layer{name}"
            if "attn.qkv" not in name:
                renamed[name] = tensor
                continue
            for part, rows in zip(parts, tensor.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", qkv.format(part))] = rows
        return renamed

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """pixels (1, 3, 384, 384), normalised -> (1, 4585)."""
        tokens = self.swin(pixels).last_hidden_state
        image = self._linear("image_proj", torch.cat([tokens.mean(1, keepdim=True), tokens], 1))[0]
        h = F.relu(self._linear("wordvec_proj", self.weights["label_embed"]))
        for layer in range(2):
            lead = f"tagging_head.encoder.layer.{layer}."
            seen = self._linear(lead + "crossattention.output.dense", self._attention(lead, h, image))
            h = self._norm(lead + "crossattention.output.LayerNorm", seen + h)
            inner = F.gelu(self._linear(lead + "intermediate.dense", h))
            h = self._norm(lead + "output.LayerNorm", self._linear(lead + "output.dense", inner) + h)
        return self._linear("fc", h).T

    def _attention(self, lead: str, h: Tensor, image: Tensor) -> Tensor:
        own = f"{lead}crossattention.self."
        q, k, v = (
            self._linear(own + name, x).unflatten(-1, (4, -1)).transpose(0, 1)
            for name, x in (("query", h), ("key", image), ("value", image))
        )
        probabilities = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        return (probabilities @ v).transpose(0, 1).flatten(1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-12
        )
