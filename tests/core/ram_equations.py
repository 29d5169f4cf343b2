"""What RAM computes, step by step, as its equations say it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mini_models.taggers import RANK
from torch import Tensor

from osediff_core.dape import TaggerConfig


class Reference:
    """RAM from its equations, one window and one head at a time; with LoRA as a second branch beside each layer."""

    def __init__(
        self, tensors: dict[str, Tensor], config: TaggerConfig, lora: dict[str, Tensor] | None = None
    ):
        self.tensors, self.config, self.lora = tensors, config, lora or {}

    def logits(self, pixels: Tensor) -> Tensor:
        """pixels (3, S, S) -> (tags,)."""
        image = self.linear("image_proj", self.tokens(pixels))
        h = F.relu(self.linear("wordvec_proj", self.tensors["label_embed"]))
        for layer in range(self.config.head_layers):
            lead = f"tagging_head.encoder.layer.{layer}."
            seen = self.linear(lead + "crossattention.output.dense", self.cross_attention(lead, h, image))
            h = self.norm(lead + "crossattention.output.LayerNorm", seen + h, 1e-12)
            inner = F.gelu(self.linear(lead + "intermediate.dense", h))
            h = self.norm(lead + "output.LayerNorm", self.linear(lead + "output.dense", inner) + h, 1e-12)
        return self.linear("fc", h)[:, 0]

    def tokens(self, pixels: Tensor) -> Tensor:
        """The mean of the image's tokens, then the tokens."""
        lead, size = "visual_encoder.", self.config.patch_size
        x = F.conv2d(
            pixels[None],
            self.tensors[lead + "patch_embed.proj.weight"],
            self.tensors[lead + "patch_embed.proj.bias"],
            stride=size,
        )[0].permute(1, 2, 0)
        x = self.norm(lead + "patch_embed.norm", x)
        for stage, depth in enumerate(self.config.swin_depths):
            for block in range(depth):
                x = self.block(
                    f"{lead}layers.{stage}.blocks.{block}.", x, self.config.swin_heads[stage], block
                )
            if stage + 1 < len(self.config.swin_depths):
                parts = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
                x = self.norm(f"{lead}layers.{stage}.downsample.norm", torch.cat(parts, dim=-1))
                x = x @ self.tensors[f"{lead}layers.{stage}.downsample.reduction.weight"].T
        x = self.norm(lead + "norm", x).flatten(0, 1)
        return torch.cat([x.mean(0, keepdim=True), x])

    def block(self, lead: str, x: Tensor, heads: int, number: int) -> Tensor:
        side, window = x.shape[0], self.config.window_size
        shift = window // 2 if number % 2 and side > window else 0
        y = self.norm(lead + "norm1", x)
        out = torch.empty_like(x)
        place = torch.arange(side)
        moved = (place + shift) % side  # what the shifted grid shows at each place
        # places that are neighbours only because the grid was rolled must not see each other
        region = (place >= side - window).long() + (place >= side - shift).long() if shift else place * 0
        for top in range(0, side, window):
            for left in range(0, side, window):
                rows, columns = moved[top : top + window], moved[left : left + window]
                tokens = y[rows][:, columns].flatten(0, 1)
                kinds = (region[top : top + window, None] * 3 + region[left : left + window]).flatten()
                mask = torch.where(kinds[:, None] == kinds, 0.0, -100.0).to(x)
                seen = self.window_attention(lead + "attn.", tokens, heads, mask)
                out[rows[:, None], columns] = seen.unflatten(0, (window, window))
        x = x + out
        inner = F.gelu(self.linear(lead + "mlp.fc1", self.norm(lead + "norm2", x)))
        return x + self.linear(lead + "mlp.fc2", inner)

    def window_attention(self, lead: str, x: Tensor, heads: int, mask: Tensor) -> Tensor:
        window = self.config.window_size
        row, column = torch.arange(window * window) // window, torch.arange(window * window) % window
        index = (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1
        q, k, v = self.linear(lead + "qkv", x).chunk(3, dim=-1)
        width = q.shape[-1] // heads
        outs = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            bias = self.tensors[lead + "relative_position_bias_table"][index, head]
            scores = q[:, part] @ k[:, part].T / math.sqrt(width) + bias + mask
            outs.append(scores.softmax(-1) @ v[:, part])
        return self.linear(lead + "proj", torch.cat(outs, dim=-1))

    def cross_attention(self, lead: str, h: Tensor, image: Tensor) -> Tensor:
        own = lead + "crossattention.self."
        q, k, v = (
            self.linear(own + "query", h),
            self.linear(own + "key", image),
            self.linear(own + "value", image),
        )
        width = q.shape[-1] // self.config.head_heads
        outs = []
        for head in range(self.config.head_heads):
            part = slice(head * width, (head + 1) * width)
            outs.append((q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1) @ v[:, part])
        return torch.cat(outs, dim=-1)

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]
        if f"{name}.lora_A" not in self.lora:
            return y
        a, b = self.lora[f"{name}.lora_A"], self.lora[f"{name}.lora_B"]
        if not name.endswith("qkv"):
            return y + x @ a.T @ b.T / RANK
        width = len(b) // 2
        y[..., :width] += x @ a[:RANK].T @ b[:width].T / RANK
        y[..., 2 * width :] += x @ a[RANK:].T @ b[width:].T / RANK
        return y

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
