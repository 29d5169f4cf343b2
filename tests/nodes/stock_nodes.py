"""ComfyUI's own nodes by their ids, called as a graph calls them."""

from __future__ import annotations

from typing import Any


def run(node_id: str, **inputs: Any) -> Any:
    """The first output. Needs ComfyUI on the path: ask for the fixture `pack` before."""
    node = _node(node_id)
    if hasattr(node, "define_schema"):
        return node.execute(**inputs).args[0]
    return getattr(node(), node.FUNCTION)(**inputs)[0]


def _node(node_id: str) -> type:
    # first, as nodes_latent imports it and it nodes_latent
    import comfy_extras.nodes_post_processing  # noqa: F401
    from comfy_extras import (
        nodes_cond,
        nodes_custom_sampler,
        nodes_latent,
        nodes_mask,
        nodes_model_advanced,
        nodes_rebatch,
    )

    from nodes import NODE_CLASS_MAPPINGS

    known = dict(NODE_CLASS_MAPPINGS)
    for module in (
        nodes_cond,
        nodes_custom_sampler,
        nodes_latent,
        nodes_mask,
        nodes_model_advanced,
        nodes_rebatch,
    ):
        known |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        for value in vars(module).values():
            if isinstance(value, type) and "define_schema" in vars(value):
                known[value.define_schema().node_id] = value
    return known[node_id]
