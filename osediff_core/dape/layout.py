"""Layout of a tagger: the parameters of the network that each official tensor becomes.

transformers 4 and 5 call Swin's layers differently: which names hold is seen in the network that was built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import BaseModelError
from .network import TaggerNetwork
from .official import official_shapes

# Official name -> ours; a block's own names follow below.
_RENAMED = (
    (r"label_embed", "label_embed.weight"),
    (r"visual_encoder\.patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
    (r"visual_encoder\.patch_embed\.norm\.", "swin.embeddings.norm."),
    (r"visual_encoder\.norm\.", "swin.layernorm."),
    (r"visual_encoder\.layers\.", "swin.encoder.layers."),
    (r"wordvec_proj\.", "head.wordvec_proj."),
    (r"fc\.", "head.fc."),
    (r"tagging_head\.encoder\.layer\.", "head.layers."),
    (r"(head\.layers\.\d+\.)crossattention\.self\.", r"\1"),
    (r"(head\.layers\.\d+\.)crossattention\.output\.dense", r"\1dense"),
    (r"(head\.layers\.\d+\.)crossattention\.output\.LayerNorm", r"\1attention_norm"),
    (r"(head\.layers\.\d+\.)intermediate\.dense", r"\1fc1"),
    (r"(head\.layers\.\d+\.)output\.dense", r"\1fc2"),
    (r"(head\.layers\.\d+\.)output\.LayerNorm", r"\1mlp_norm"),
)
_TABLE = "relative_position_bias_table"
# Within a block: official name -> what it is stacked from, each in transformers 5's words and in 4's.
_IN_BLOCK = {
    "norm1": (("layernorm_before", "layernorm_before"),),
    "norm2": (("layernorm_after", "layernorm_after"),),
    "attn.qkv": (
        ("attention.q_proj", "attention.self.query"),
        ("attention.k_proj", "attention.self.key"),
        ("attention.v_proj", "attention.self.value"),
    ),
    "attn.proj": (("attention.o_proj", "attention.output.dense"),),
    f"attn.{_TABLE}": ((f"attention.relative_position_bias.{_TABLE}", f"attention.self.{_TABLE}"),),
    "mlp.fc1": (("mlp.fc1", "intermediate.dense"),),
    "mlp.fc2": (("mlp.fc2", "output.dense"),),
}
_BLOCK = re.compile(r"(swin\.encoder\.layers\.\d+\.blocks\.\d+\.)(.+?)(\.weight|\.bias|)$")


def layout(network: TaggerNetwork) -> dict[str, tuple[str, ...]]:
    """Official tensor name -> the parameters of the network that it is stacked from, along its rows.

    Raises BaseModelError if the installed transformers builds a Swin with other parameters than these.
    """
    there = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    wanted = official_shapes(network.config)
    found = {name: _parameters(name, there) for name in wanted}
    named = [name for targets in found.values() for name in targets]
    if sorted(named) != sorted(there) or any(_stacked(found[n], there) != wanted[n] for n in wanted):
        import transformers

        raise BaseModelError(
            f"transformers {transformers.__version__} builds Swin with other layers than this program knows; install "
            "a release from 4.44 to 5."
        )
    return found


def _parameters(name: str, there: Iterable[str]) -> tuple[str, ...]:
    for official, own in _RENAMED:
        name = re.sub(f"^{official}", own, name)
    block = _BLOCK.match(name)
    if block is None:
        return (name,)
    lead, inner, kind = block.groups()
    candidates = ([f"{lead}{words}{kind}" for words in part] for part in _IN_BLOCK[inner])
    return tuple(next((name for name in names if name in there), names[0]) for names in candidates)


def _stacked(names: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    parts = [shapes[name] for name in names]
    return (sum(part[0] for part in parts), *parts[0][1:])


def to_network(tensors: Mapping[str, Tensor], network: TaggerNetwork) -> dict[str, Tensor]:
    """Tensors by official name -> the network's state; views, no copies."""
    state: dict[str, Tensor] = {}
    for official, targets in layout(network).items():
        state.update(zip(targets, tensors[official].chunk(len(targets)), strict=True))
    return state


def to_official(network: TaggerNetwork) -> dict[str, Tensor]:
    """The network's parameters by official name, detached; views where nothing has to be stacked."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return {
        official: parameters[targets[0]] if len(targets) == 1 else torch.cat([parameters[n] for n in targets])
        for official, targets in layout(network).items()
    }
