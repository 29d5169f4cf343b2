"""Small taggers with random weights, in the layout of the official files, and what RAM computes, step by step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from osediff_core.dape import TaggerConfig
from osediff_core.dape.lora import factor_shapes, lora_modules
from osediff_core.dape.official import official_shapes

SMALL = TaggerConfig(
    image_size=48,
    patch_size=4,
    swin_width=16,
    swin_depths=(2, 2),
    swin_heads=(2, 4),
    window_size=6,
    image_width=24,
    label_width=20,
    head_width=32,
    head_heads=4,
    head_layers=2,
    head_mlp_width=40,
    tags=tuple(range(100, 700)),  # more than the head takes at once
)
RANK = 2


def official_tensors(
    config: TaggerConfig = SMALL, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random weights under RAM's names, large enough that every part shows in the logits."""
    draws = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in official_shapes(config).items():
        values = torch.randn(shape, generator=draws)
        if name.endswith("table"):
            values *= 0.5
        elif len(shape) == 1:
            values = values * 0.1 + (1 if name.endswith("weight") else 0)
        elif name != "label_embed":
            values *= 2 / math.sqrt(math.prod(shape[1:]))
        tensors[name] = values.to(dtype)
    return tensors


def lora_tensors(
    config: TaggerConfig = SMALL, seed: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random LoRA under DAPE's names."""
    draws = torch.Generator().manual_seed(seed)
    shapes = official_shapes(config)
    return {
        f"{module}.lora_{factor}": torch.randn(shape, generator=draws).to(dtype) * 0.3
        for module in lora_modules(config)
        for factor, shape in zip("AB", factor_shapes(module, shapes[f"{module}.weight"], RANK), strict=True)
    }


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
