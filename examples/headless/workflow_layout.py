"""The layout of an example workflow: compact columns, groups with titles, a note where the eye starts.

ComfyUI opens a graph so that it fills three quarters of the window, and draws no text below 57 %: `LARGEST` is what
still opens at 80 % in a window of 1920 x 1080, and at 62 % in one of 1440 x 900.
"""

from __future__ import annotations

import math

from .client import Json
from .workflow_about import About, Group

LARGEST = (1720, 970)  # width and height in pixels of the canvas
_TITLE = 30  # px: a node's bar of title
_GAP = 22  # px between nodes
_BETWEEN = 44  # px between columns
_HEAD, _EDGE = 46, 12  # px of a group above and beside its nodes
_LINE, _LETTERS = 14, 5.2  # px of a note's line, and of a letter


def arrange(workflow: Json, about: About) -> Json:
    """The UI workflow with its nodes in the columns of `about`, a note and groups, links numbered from 1.

    Raises ValueError for nodes without a place, or for more than a window shows.
    """
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    placed = [node for column in about.columns for group in column.groups for node in group.nodes]
    if sorted(placed) != sorted(nodes):
        raise ValueError(f"{about.title} has the nodes {sorted(nodes)}, and places for {sorted(placed)}")
    for key, height in about.heights.items():
        nodes[key]["size"][1] = height
    groups: list[Json] = []
    x, note = 0, None
    for index, column in enumerate(about.columns):
        y = 0
        if index == 0:
            note = _note(about, max(int(key) for key in nodes) + 1, column.width)
            y = note["size"][1] + _TITLE + _GAP
        for group in column.groups:
            y = _place(group, nodes, x, y, column.width, groups)
        x += column.width + _BETWEEN
    out = _numbered({**workflow, "nodes": [*nodes.values(), note], "groups": groups, "extra": {}})
    width, height = extent(out)
    if width > LARGEST[0] or height > LARGEST[1]:
        raise ValueError(f"{about.title} takes {width} x {height} of {LARGEST[0]} x {LARGEST[1]}")
    return out


def extent(workflow: Json) -> tuple[int, int]:
    """(width, height) of the nodes with their titles, which is what ComfyUI fits into the window."""
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes) - _TITLE
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return math.ceil(right - left), math.ceil(bottom - top)


def _place(group: Group, nodes: dict[str, Json], x: int, y: int, width: int, groups: list[Json]) -> int:
    """Stacks a group's nodes from y on, with the group around them; returns the y of what comes below."""
    top = y
    y += _HEAD - _TITLE
    for key in group.nodes:
        node = nodes[key]
        node["pos"] = [x, y + _TITLE]
        node["size"] = [width, math.ceil(node["size"][1])]
        y += _TITLE + node["size"][1] + _GAP
    bottom = y - _GAP + _EDGE
    groups.append(
        {
            "id": len(groups) + 1,
            "title": group.title,
            "bounding": [x - _EDGE, top - _TITLE + _EDGE, width + 2 * _EDGE, bottom - top + _TITLE - _EDGE],
            "color": group.color,
            "font_size": 20,
            "flags": {},
        }
    )
    return bottom + _GAP + _TITLE


def _note(about: About, number: int, width: int) -> Json:
    lines = sum(1 + math.floor(len(line) * _LETTERS / (width - 30)) for line in about.text.splitlines())
    return {
        "id": number,
        "type": "MarkdownNote",
        "title": f"OSEDiff: {about.title}",
        "pos": [0, 0],
        "size": [width, 32 + _LINE * lines],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [about.text],
        "color": "#233",
        "bgcolor": "#355",
    }


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
