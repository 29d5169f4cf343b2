"""The official names of a tagger's tensors, and where each goes in the network.

transformers 4 and 5 call Swin's layers differently: which names hold is seen in the network that was built.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import BaseModelError
from .config import TaggerConfig

# official name within a block -> transformers 5's, transformers 4's
_IN_BLOCK = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.proj": ("attention.o_proj", "attention.output.dense"),
    "mlp.fc1": ("mlp.fc1", "intermediate.dense"),
    "mlp.fc2": ("mlp.fc2", "output.dense"),
}
_QKV = (  # rows of the official attn.qkv, in this order
    ("attention.q_proj", "attention.self.query"),
    ("attention.k_proj", "attention.self.key"),
    ("attention.v_proj", "attention.self.value"),
)
_TABLE = "relative_position_bias_table"
_TABLES = (f"attention.relative_position_bias.{_TABLE}", f"attention.self.{_TABLE}")
_IN_HEAD_LAYER = {
    "crossattention.self.query": "query",
    "crossattention.self.key": "key",
    "crossattention.self.value": "value",
    "crossattention.output.dense": "dense",
    "crossattention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "mlp_norm",
}
_BOTH = ("weight", "bias")


def layout(network: nn.Module, config: TaggerConfig) -> dict[str, tuple[str, ...]]:
    """Official tensor name -> the network's parameters that it is stacked from, along its rows: 366 names for RAM.

    Raises BaseModelError if the installed transformers builds a Swin with other parameters than these.
    """
    there = {name for name, _ in network.named_parameters()}
    found: dict[str, tuple[str, ...]] = {"label_embed": ("label_embed.weight",)}

    def add(official: str, *targets: tuple[str, ...], kinds: tuple[str, ...] = _BOTH) -> None:
        for kind in kinds:
            end = f".{kind}" if kind else ""
            chosen = (next((c for c in cs if c + end in there), cs[0]) for cs in targets)
            found[official + end] = tuple(name + end for name in chosen)

    add("visual_encoder.patch_embed.proj", ("swin.embeddings.patch_embeddings.projection",))
    add("visual_encoder.patch_embed.norm", ("swin.embeddings.norm",))
    for stage, depth in enumerate(config.swin_depths):
        for block in range(depth):
            official = f"visual_encoder.layers.{stage}.blocks.{block}."
            own = f"swin.encoder.layers.{stage}.blocks.{block}."
            add(official + "attn." + _TABLE, tuple(own + c for c in _TABLES), kinds=("",))
            add(official + "attn.qkv", *(tuple(own + c for c in candidates) for candidates in _QKV))
            for name, candidates in _IN_BLOCK.items():
                add(official + name, tuple(own + c for c in candidates))
        if stage + 1 < len(config.swin_depths):
            official, own = (
                f"visual_encoder.layers.{stage}.downsample.",
                f"swin.encoder.layers.{stage}.downsample.",
            )
            add(official + "norm", (own + "norm",))
            add(official + "reduction", (own + "reduction",), kinds=("weight",))
    add("visual_encoder.norm", ("swin.layernorm",))
    add("image_proj", ("image_proj",))
    add("wordvec_proj", ("head.wordvec_proj",))
    for layer in range(config.head_layers):
        for name, own in _IN_HEAD_LAYER.items():
            add(f"tagging_head.encoder.layer.{layer}.{name}", (f"head.layers.{layer}.{own}",))
    add("fc", ("head.fc",))

    named = [name for targets in found.values() for name in targets]
    if set(named) != there or len(named) != len(there):
        import transformers

        raise BaseModelError(
            f"transformers {transformers.__version__} builds Swin with other layers than this program knows; install "
            "transformers 4.44 to 5."
        )
    return found


def official_shapes(network: nn.Module, names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[int, ...]]:
    """Official tensor name -> shape, for the names of `layout`."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    return {
        official: (sum(shapes[name][0] for name in targets), *shapes[targets[0]][1:])
        for official, targets in names.items()
    }


def to_network(tensors: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Tensors by official name -> the network's state; views, no copies."""
    state: dict[str, Tensor] = {}
    for official, targets in names.items():
        state.update(zip(targets, tensors[official].chunk(len(targets)), strict=True))
    return state


def to_official(network: nn.Module, names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """The network's parameters by official name, detached; views where nothing has to be stacked."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return {
        official: torch.cat([parameters[n] for n in targets]) if len(targets) > 1 else parameters[targets[0]]
        for official, targets in names.items()
    }
