"""Makes what people open in ComfyUI out of the workflows for the API: UI workflows, thumbnails, blueprint, screenshots.

    python examples/headless/build_workflows.py [NAME ...]

`example_workflows/api/*.json` are the source. ComfyUI's own front end, in Chromium, turns each into its UI format; the
layout, the note and the groups are put on here, and the workflow is run for its pictures. Needs playwright and
/usr/bin/chromium; run it again when a node's inputs, a workflow or the embedded model have changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `headless`

from headless.browser import Page, open_comfyui
from headless.client import ComfyClient, Json
from headless.demo import installed_comfyui
from headless.server import PACK, ComfyServer
from headless.thumbnails import make_thumbnail
from headless.workflow_layout import arrange
from headless.workflow_notes import ABOUT
from osediff_core.weights.published import WebPlace, find

FOLDER = PACK / "example_workflows"
SCREENSHOTS = PACK / "docs" / "images"
SECONDS = PACK / "docs" / "workflow_seconds.json"
BLUEPRINT = PACK / "subgraphs" / "OSEDiff Restore.json"
WINDOW = (1920, 1080)
UPSCALERS = {  # as ComfyUI's own templates name it
    "RealESRGAN_x4plus.safetensors": "https://huggingface.co/Comfy-Org/Real-ESRGAN_repackaged/resolve/main/"
    "RealESRGAN_x4plus.safetensors"
}
_PROMOTED = {  # the blueprint's own widgets, by the class of the node inside
    "OSEDiff_Load": ("base", "weights"),
    "OSEDiff_DAPEPrompt": ("extra_prompt",),
    "OSEDiff_EncodeLQ": ("scale", "width"),
    "OSEDiff_Decode": ("color_fix",),
}


def main() -> int:
    """Builds the workflows named on the command line, or all, with their pictures and the blueprint."""
    names = sys.argv[1:] or list(ABOUT)
    with tempfile.TemporaryDirectory() as base, ComfyServer(installed_comfyui(), Path(base)) as server:
        client = ComfyClient(server.url)
        titles = {name: info["display_name"] for name, info in client.object_info().items()}
        for setting in ("Comfy.Graph.CanvasInfo", "Comfy.Minimap.Visible"):  # of no use in a picture
            client.call(f"/settings/{setting}", False)
        with open_comfyui(server.url, *WINDOW) as page:
            for name in names:
                api = json.loads((FOLDER / "api" / f"{name}.json").read_text())
                workflow = build(page, name, ABOUT[name].for_page(api), titles)
                _write(FOLDER / f"{ABOUT[name].file_stem}.json", workflow)
            if "restore_photo" in names:
                _write(BLUEPRINT, blueprint(page))
            page.reload()
            for name in names:
                about = ABOUT[name]
                workflow = json.loads((FOLDER / f"{about.file_stem}.json").read_text())
                shot = SCREENSHOTS / f"workflow_{name}.jpg"
                made, seconds = screenshot(page, client, workflow, shot, runs=not about.models)
                if made:
                    print(f"{about.title}: {seconds:.1f} s from Run to the result", flush=True)
                    note_seconds(name, seconds)
                make_thumbnail(about, made, FOLDER / f"{about.file_stem}.jpg")
    return 0


def build(page: Page, name: str, api: Json, titles: dict[str, str]) -> Json:
    """The UI workflow of an API one; loaded again, it gives the same API workflow. titles: of ComfyUI's nodes."""
    page.evaluate("async ([api, name]) => { await app.loadApiJson(api, name) }", [api, f"{name}.json"])
    page.wait_for_timeout(1000)
    about = ABOUT[name]
    workflow = arrange(_plain(page.evaluate("() => app.graph.serialize()")), about)
    for node in (n for n in workflow["nodes"] if "widgets_values" in n):  # the same picture at every run
        node["widgets_values"] = [
            "fixed" if value == "randomize" else value for value in node["widgets_values"]
        ]
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-OSEDiff/{name}"))
    for node in workflow["nodes"]:
        files = about.models.get(str(node["id"]), ())
        if files:
            node["properties"]["models"] = [missing_model(file) for file in files]
        if node.get("title") == titles.get(node["type"]):
            del node["title"]  # the front end has it in the language of its user
    page.load(workflow)
    found = page.api()
    differing = [key for key in {*found, *api} if found.get(key) != api.get(key)]
    if differing:
        given = {key: found.get(key) for key in differing}
        raise SystemExit(f"The UI workflow {name} gives another API workflow than its own: {given}")
    return workflow


def missing_model(name: str) -> Json:
    """A published file as ComfyUI's dialogue about missing models wants it."""
    if name in UPSCALERS:
        return {"name": name, "url": UPSCALERS[name], "directory": "upscale_models"}
    file = find(name)
    place = file.place
    url = place.url if isinstance(place, WebPlace) else f"{place}/resolve/{place.revision}/{place.filename}"
    return {"name": file.name, "url": url, "directory": file.folder}


def screenshot(
    page: Page, client: ComfyClient, workflow: Json, target: Path, runs: bool
) -> tuple[list[bytes], float]:
    """The page as the workflow opens, after a run if it can be run; returns what was saved, the last last, and the
    seconds that it took, models loaded anew."""
    made: list[bytes] = []
    seconds = 0.0
    page.load(workflow, target.stem)
    if runs:
        client.free()
        began = time.monotonic()
        event, detail = page.queue(seconds=600)
        seconds = time.monotonic() - began
        if event != "execution_success":
            raise SystemExit(f"{workflow['id']} does not run: {event} {detail}")
        entry = client.call(f"/history/{detail['prompt_id']}")[detail["prompt_id"]]
        made = [client.fetch(image) for image in saved_images(entry)]
        page.wait_for_timeout(2500)
    page.screenshot(target)
    return made, seconds


def note_seconds(name: str, seconds: float) -> None:
    """For docs/first_minute.md, which first_minute.py writes."""
    noted = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
    _write(SECONDS, {key: noted[key] for key in noted if key in ABOUT} | {name: round(seconds, 1)})


def saved_images(entry: Json) -> list[Json]:
    """The images that Save nodes wrote, in the order of their nodes."""
    found = sorted(entry["outputs"].items(), key=lambda output: int(output[0].partition(".")[0]))
    return [
        image for _, output in found for image in output.get("images", []) if image.get("type") == "output"
    ]


def blueprint(page: Page) -> Json:
    """The chain of restore_photo as one node, to be found in the node library."""
    page.load(json.loads((FOLDER / f"{ABOUT['restore_photo'].file_stem}.json").read_text()))
    made = page.evaluate(
        """() => {
            const inside = app.graph.nodes.filter(n => n.type.startsWith('OSEDiff_'));
            const { subgraph, node } = app.graph.convertToSubgraph(new Set(inside));
            subgraph.name = node.title = 'OSEDiff Restore';
            const graph = app.graph.serialize();
            return { graph, id: node.id };
        }"""
    )
    graph = _plain(made["graph"])
    (node,) = (n for n in graph["nodes"] if str(n["id"]) == str(made["id"]))
    (subgraph,) = graph["definitions"]["subgraphs"]
    node["properties"]["proxyWidgets"] = [
        [str(n["id"]), widget] for n in subgraph["nodes"] for widget in _PROMOTED.get(n["type"], ())
    ]
    subgraph["category"] = "OSEDiff"
    subgraph["description"] = (
        "Restores and enlarges a picture in one diffusion step: OSEDiff's loader, tagger, prompt, encoder, step and "
        "decoder as one node that can be opened."
    )
    _keep_pictures_only(subgraph, node)
    node["inputs"] = [{**slot, "link": None} for slot in node["inputs"] if slot["type"] == "IMAGE"]
    node["outputs"] = [{**slot, "links": []} for slot in node["outputs"]]
    words = {"BlueprintSearchAliases": ["osediff", "super resolution", "upscale", "restore photo"]}
    return {**graph, "nodes": [node], "links": [], "groups": [], "extra": words}


def _keep_pictures_only(subgraph: Json, node: Json) -> None:
    """The front end also makes an input of the seed, whose value it then mixes up with the promoted widgets'."""
    dropped = {link for slot in subgraph["inputs"] if slot["type"] != "IMAGE" for link in slot["linkIds"]}
    subgraph["inputs"] = [slot for slot in subgraph["inputs"] if slot["type"] == "IMAGE"]
    subgraph["links"] = [link for link in subgraph["links"] if link["id"] not in dropped]
    for inner in subgraph["nodes"]:
        for slot in inner["inputs"]:
            if slot.get("link") in dropped:
                slot["link"] = None
    node["widgets_values"] = []  # the widgets inside have them


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Without what is null and what depends on the language of the page."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None and k != "localized_name"}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _write(path: Path, content: Json) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
