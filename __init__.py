"""ComfyUI's entry point, and nothing else.

The nodes are in `nodes`, the restoration itself in `osediff_core`, which does not know ComfyUI. Outside ComfyUI this
module is empty.
"""

from importlib.util import find_spec

if find_spec("comfy_api") is not None:
    from .nodes import OSEDiffExtension

    WEB_DIRECTORY = "./web"  # the nodes' help pages

    async def comfy_entrypoint() -> OSEDiffExtension:
        """Called by ComfyUI once at start."""
        return OSEDiffExtension()
