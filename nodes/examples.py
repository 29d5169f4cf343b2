"""Pictures and a clip that the pack's workflows begin with: put into ComfyUI's input folder when its page asks."""

from __future__ import annotations

import shutil
from pathlib import Path

import folder_paths
from aiohttp import web

_FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = {
    "osediff_barn.png": _FOLDER / "photos" / "barn.png",
    "osediff_lighthouse.png": _FOLDER / "photos" / "lighthouse.png",
    "osediff_plane.png": _FOLDER / "photos" / "plane.png",
    "osediff_original.jpg": _FOLDER / "originals" / "parrots.jpg",
    "osediff_clip.mp4": _FOLDER / "clips" / "two_scenes.mp4",
}


def serve(routes: web.RouteTableDef) -> None:
    """Adds the page's request: POST /osediff/examples/NAME puts that file into the input folder, unless it is there."""

    @routes.post("/osediff/examples/{name}")
    async def put(request: web.Request) -> web.Response:
        source = EXAMPLES.get(request.match_info["name"])
        if source is None:
            return web.json_response({"error": "There is no such example."}, status=404)
        target = Path(folder_paths.get_input_directory()) / request.match_info["name"]
        added = not target.exists()
        try:
            if added:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        except OSError as error:
            return web.json_response({"error": f"{target} cannot be written: {error}."}, status=500)
        return web.json_response({"added": added})
