"""Makes what people open in ComfyUI out of the workflows for the API: UI workflows, thumbnails, blueprint, screenshot.

    python examples/headless/build_workflows.py [NAME ...]

`example_workflows/api/*.json` are the source. ComfyUI's own front end, in Chromium, turns each into its UI format; the
layout, the note and the groups are put on here. Needs playwright and /usr/bin/chromium; run it again when a node's
inputs or a workflow have changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `headless`

from headless.browser import Page, open_comfyui
from headless.client import ComfyClient, Json
from headless.demo import installed_comfyui
from headless.server import PACK, ComfyServer
from headless.thumbnails import PHOTOS, make_thumbnail
from headless.workflow_notes import ABOUT, About, note_for

FOLDER = PACK / "example_workflows"
SCREENSHOT = PACK / "docs" / "images" / "comfyui_restore_photo.jpg"
BLUEPRINT = PACK / "subgraphs" / "OSEDiff Restore.json"
_GAP, _TITLE, _NOTE_WIDTH = 60, 40, 380  # px: between nodes, a node's title bar, the note's width
_SAVE_SIZE = (440, 420)  # room for the result
_PROMOTED = {  # the blueprint's own widgets, by the class of the node inside
    "OSEDiff_Load": ("base", "weights"),
    "OSEDiff_DAPEPrompt": ("extra_prompt",),
    "OSEDiff_EncodeLQ": ("scale",),
    "OSEDiff_Decode": ("color_fix",),
}


def main() -> int:
    """Builds the workflows named on the command line, or all, with the blueprint and the screenshot."""
    names = sys.argv[1:] or sorted(path.stem for path in (FOLDER / "api").glob("*.json"))
    with tempfile.TemporaryDirectory() as base, ComfyServer(installed_comfyui(), Path(base)) as server:
        photos = server.base / "input" / "photos"
        photos.mkdir(parents=True)
        for target in (photos / "barn.png", server.base / "input" / "example.png"):
            target.write_bytes((PHOTOS / "barn.png").read_bytes())
        client = ComfyClient(server.url)
        with open_comfyui(server.url) as page:
            for name in names:
                api = json.loads((FOLDER / "api" / f"{name}.json").read_text())
                workflow = build(page, name, api)
                _write(FOLDER / f"{name}.json", workflow)
                make_thumbnail(client, name, api, FOLDER / f"{name}.jpg")
            if "restore_photo" in names:
                _write(BLUEPRINT, blueprint(page))
                screenshot(page, FOLDER / "restore_photo.json", SCREENSHOT)
    return 0


def build(page: Page, name: str, api: Json) -> Json:
    """The UI workflow of an API one; loaded again, it gives the same API workflow."""
    page.evaluate("async ([api, name]) => { await app.loadApiJson(api, name) }", [api, f"{name}.json"])
    page.wait_for_timeout(1000)
    workflow = _plain(page.evaluate("() => app.graph.serialize()"))
    workflow = arrange(workflow, ABOUT[name])
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"ComfyUI-OSEDiff/{name}"))
    page.load(workflow)
    if page.api() != api:
        raise SystemExit(f"The UI workflow {name} does not give back its API workflow.")
    return workflow


def arrange(workflow: Json, about: About) -> Json:
    """Columns from left to right by what feeds what, a note before them, and a titled group around each."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = workflow["links"]  # [id, from node, slot, to node, slot, type]
    columns: dict[int, list[Json]] = {}
    for node in nodes.values():
        if node["type"] == "SaveImage":
            node["size"] = list(_SAVE_SIZE)
        columns.setdefault(_depth(node["id"], links), []).append(node)
    groups, x = [], 0
    for index, (_, column) in enumerate(sorted(columns.items())):
        width = max(node["size"][0] for node in column)
        y = 0
        for node in column:
            node["pos"] = [x, y]
            node["size"][0] = width
            y += node["size"][1] + _TITLE + _GAP
        bounding = [x - 20, -_TITLE - 50, width + 40, y + 50]
        groups.append({"id": index + 1, "title": about.columns[index], "bounding": bounding, "flags": {}})
        x += width + 40 + _GAP
    text = note_for(about)
    note = {
        "id": max(nodes) + 1,
        "type": "MarkdownNote",
        "title": about.title,
        "pos": [-_NOTE_WIDTH - 40 - _GAP, -_TITLE - 10],
        "size": [_NOTE_WIDTH, 120 + 22 * _lines(text)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [text],
        "color": "#233",
        "bgcolor": "#355",
    }
    return _numbered({**workflow, "nodes": [*nodes.values(), note], "groups": groups, "extra": {}})


def _depth(node_id: int, links: list[list[Any]]) -> int:
    sources = [link[1] for link in links if link[3] == node_id]
    return 1 + max(_depth(source, links) for source in sources) if sources else 0


def _lines(text: str) -> int:
    return sum(1 + len(line) // 50 for line in text.splitlines())


def _numbered(workflow: Json) -> Json:
    """Links numbered from 1, so that building again changes nothing."""
    number = {
        link[0]: index for index, link in enumerate(sorted(workflow["links"], key=lambda link: link[3:5]), 1)
    }
    for link in workflow["links"]:
        link[0] = number[link[0]]
    workflow["links"].sort()
    for node in workflow["nodes"]:
        for slot in node["inputs"]:
            slot["link"] = number.get(slot.get("link"))
        for slot in node["outputs"]:
            slot["links"] = sorted(number[link] for link in slot.get("links") or []) or None
    return {
        **workflow,
        "last_node_id": max(node["id"] for node in workflow["nodes"]),
        "last_link_id": len(number),
    }


def blueprint(page: Page) -> Json:
    """The chain of restore_photo as one node, to be found in the node library."""
    page.load(json.loads((FOLDER / "restore_photo.json").read_text()))
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
    _keep_pictures_only(subgraph, node)
    node["inputs"] = [{**slot, "link": None} for slot in node["inputs"] if slot["type"] == "IMAGE"]
    node["outputs"] = [{**slot, "links": []} for slot in node["outputs"]]
    return {**graph, "nodes": [node], "links": [], "groups": [], "extra": {}}


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


def screenshot(page: Page, workflow: Path, target: Path) -> None:
    """The page after a run in it."""
    page.load(json.loads(workflow.read_text()))
    page.queue()
    page.wait_for_timeout(2500)
    page.fit()
    page.screenshot(target)


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
