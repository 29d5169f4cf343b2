"""The pictures beside the example workflows: what each really makes of an example photo."""

from __future__ import annotations

import copy
import io
from pathlib import Path

from PIL import Image, ImageDraw

from .client import ComfyClient, Json, images
from .server import PACK

PHOTOS = PACK / "examples" / "photos"
WIDTH = 512
_PHOTO = {
    "restore_photo": "barn.png",
    "restore_4k_tiles": "lighthouse.png",
    "stock_nodes": "plane.png",
    "degrade_restore_compare": "parrots.png",
    "folder": "barn.png",
    "one_box": "parrots.png",
}


def make_thumbnail(client: ComfyClient, name: str, api: Json, target: Path) -> None:
    """Runs the workflow and writes a JPEG: before | after for a restored photo, else the last picture made."""
    graph = copy.deepcopy(api)
    photo = PHOTOS / _PHOTO[name] if name in _PHOTO else None
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = client.upload(photo)
        width = node["inputs"].get("width", 0)
        if isinstance(width, int) and width > 1152:  # not a link
            node["inputs"]["width"] = 1152  # four thousand pixels take a processor very long
    made = [
        Image.open(io.BytesIO(client.fetch(image))).convert("RGB")
        for image in images(client.wait(client.queue(graph), timeout=1200))
    ]
    whole = name in ("degrade_restore_compare", "text_to_image")
    picture = (
        made[-1] if whole or photo is None else _before_after(Image.open(photo).convert("RGB"), made[-1])
    )
    picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS).save(
        target, quality=88, optimize=True
    )


def _before_after(before: Image.Image, after: Image.Image) -> Image.Image:
    """The middle of the picture, the left half enlarged only, the right half restored."""
    sheet = before.resize(after.size, Image.Resampling.BICUBIC)
    middle = after.width // 2
    sheet.paste(after.crop((middle, 0, *after.size)), (middle, 0))
    ImageDraw.Draw(sheet).line([(middle, 0), (middle, sheet.height)], fill="white", width=3)
    left, top = after.width // 5, after.height // 5
    return sheet.crop((left, top, after.width - left, after.height - top))
