"""The demo's second half: the same photos through a real ComfyUI and its HTTP API, as a program would do it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

from .client import ComfyClient, Json, images
from .fetch import FetchError, find_comfyui, unmet_requirements
from .server import PACK, ComfyServer

WORKFLOW = PACK / "example_workflows" / "api" / "restore_photo.json"


def installed_comfyui() -> Path:
    """A ComfyUI that this interpreter can run. Raises FetchError, whose sentence says what is missing."""
    tree = find_comfyui()
    if tree is None:
        raise FetchError(
            "there is no ComfyUI here; with a network, `python examples/headless/fetch.py` gets one."
        )
    unmet = unmet_requirements(tree)
    if unmet:
        raise FetchError(
            f"this Python lacks {', '.join(unmet)}; with a network, `python examples/headless/fetch.py` gets them."
        )
    return tree


def restore_photos(tree: Path, photos: list[Path], scale: float) -> Iterator[bytes]:
    """The restored photos, each as a PNG file's content, in order; the ComfyUI in `tree` runs in the meantime.

    Raises ServerError and ComfyError.
    """
    graph = json.loads(WORKFLOW.read_text())
    with ComfyServer(tree) as server:
        client = ComfyClient(server.url)
        for photo in photos:
            prompt_id = client.queue(_with_inputs(graph, client.upload(photo), scale))
            yield client.fetch(images(client.wait(prompt_id))[0])


def _with_inputs(graph: Json, image: str, scale: float) -> Json:
    """A copy of the graph that loads `image` and enlarges it `scale` times."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = image
        elif "scale" in node["inputs"]:
            node["inputs"]["scale"] = scale
    return graph
