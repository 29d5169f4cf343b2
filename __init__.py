"""ComfyUI's entry point, and nothing else.

This version has no nodes yet: ComfyUI finds the pack, loads it and gets an empty list. The restoration itself
is in `osediff_core`, which does not know ComfyUI. Outside ComfyUI this module is empty.
"""

from importlib.util import find_spec

if find_spec("comfy_api") is not None:
    from comfy_api.latest import ComfyExtension, io

    class _OSEDiffExtension(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return []

    async def comfy_entrypoint() -> ComfyExtension:
        """Called by ComfyUI once at start."""
        return _OSEDiffExtension()
