"""The tensors of a tagger by their official names (recognize-anything's), as its files hold them."""

from __future__ import annotations

from ..weights.tensor_file import Shape
from .config import TaggerConfig


def official_shapes(config: TaggerConfig) -> dict[str, Shape]:
    """Name -> shape of all that tagging needs: 366 tensors, 212 million values for RAM."""
    shapes: dict[str, Shape] = {"label_embed": (config.tag_count, config.label_width)}
    shapes |= _encoder(config)
    shapes |= _linear("image_proj", config.swin_widths[-1], config.image_width)
    shapes |= _linear("wordvec_proj", config.label_width, config.head_width)
    for layer in range(config.head_layers):
        shapes |= _head_layer(f"tagging_head.encoder.layer.{layer}.", config)
    return shapes | _linear("fc", config.head_width, 1)


def _encoder(config: TaggerConfig) -> dict[str, Shape]:
    width, patch = config.swin_width, config.patch_size
    shapes: dict[str, Shape] = {
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **_norm("patch_embed.norm", width),
    }
    last = len(config.swin_depths) - 1
    stages = zip(config.swin_widths, config.swin_depths, config.swin_heads, strict=True)
    for stage, (width, depth, heads) in enumerate(stages):
        hidden = int(config.mlp_ratio * width)
        for block in range(depth):
            lead = f"layers.{stage}.blocks.{block}."
            shapes[f"{lead}attn.relative_position_bias_table"] = ((2 * config.window_size - 1) ** 2, heads)
            shapes |= _norm(lead + "norm1", width) | _norm(lead + "norm2", width)
            shapes |= _linear(lead + "attn.qkv", width, 3 * width) | _linear(lead + "attn.proj", width, width)
            shapes |= _linear(lead + "mlp.fc1", width, hidden) | _linear(lead + "mlp.fc2", hidden, width)
        if stage < last:
            shapes |= _norm(f"layers.{stage}.downsample.norm", 4 * width)
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
    shapes |= _norm("norm", config.swin_widths[-1])
    return {f"visual_encoder.{name}": shape for name, shape in shapes.items()}


def _head_layer(lead: str, config: TaggerConfig) -> dict[str, Shape]:
    width, hidden, attention = config.head_width, config.head_mlp_width, f"{lead}crossattention."
    return {
        **_linear(attention + "self.query", width, width),
        **_linear(attention + "self.key", config.image_width, width),
        **_linear(attention + "self.value", config.image_width, width),
        **_linear(attention + "output.dense", width, width),
        **_norm(attention + "output.LayerNorm", width),
        **_linear(lead + "intermediate.dense", width, hidden),
        **_linear(lead + "output.dense", hidden, width),
        **_norm(lead + "output.LayerNorm", width),
    }


def _linear(name: str, inner: int, out: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
