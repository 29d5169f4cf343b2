"""What there is to say of an example workflow beside its nodes: title, note, places, pictures, models."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .client import Json

# Light enough to read on the dark canvas, dark enough for the light one.
BLUE, GREEN, ORANGE, PURPLE = "#4f9fe8", "#3fae6a", "#e08a3c", "#a877dd"


class Group(NamedTuple):
    """Nodes of one column, from top to bottom, by their ids in the API workflow."""

    title: str
    color: str
    nodes: tuple[str, ...]


class Column(NamedTuple):
    """Groups from top to bottom. width: in pixels of the canvas."""

    width: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class About:
    """title: of the template and of its note. text: Markdown. columns: from left to right; the note is on top of the
    first. heights: of nodes that show pictures or text. thumbnail: its kind, with the words on it; photo: of
    examples/photos, what it shows, with its middle so many times larger; focus: where in its width strips are taken.
    models: files that do not come with the pack, by the node that loads them. settings, views: what the page's workflow
    has beside that for programs: other inputs, by node, and nodes that only show pictures."""

    title: str
    text: str
    columns: tuple[Column, ...]
    heights: dict[str, int]
    thumbnail: str = "split"
    words: tuple[str, ...] = ("before", "after")
    photo: str = "barn.png"
    zoom: float = 1.0
    focus: float = 0.5
    models: dict[str, tuple[str, ...]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, Json] = field(default_factory=dict)

    @property
    def file_stem(self) -> str:
        """ComfyUI's page of templates shows file names, and searches nothing else."""
        return f"OSEDiff - {self.title}"

    def for_page(self, api: Json) -> Json:
        """The workflow for programs with the settings and the views, in the API format, too.

        The page's titles name the pack, as there a node may stand in any graph.
        """
        graph = copy.deepcopy(api)
        for node in graph.values():
            if node["class_type"].startswith("OSEDiff_") and "OSEDiff" not in node["_meta"]["title"]:
                node["_meta"]["title"] += " (OSEDiff)"
        for key, inputs in self.settings.items():
            graph[key]["inputs"].update(inputs)
        return {**graph, **self.views}


def compare(before: list[Any], after: list[Any]) -> Json:
    """The slider of Nodes 2.0."""
    inputs = {"image_a": before, "image_b": after, "compare_view": {"__value__": ["", ""]}}
    return {"class_type": "ImageCompare", "inputs": inputs, "_meta": {"title": "Compare Images"}}


def side_by_side(before: list[Any], after: list[Any], stitch: str, preview: str) -> dict[str, Json]:
    """Both pictures as one, for any kind of nodes."""
    inputs = {
        "image1": before,
        "image2": after,
        "direction": "right",
        "match_image_size": True,
        "spacing_width": 8,
        "spacing_color": "white",
    }
    shown = {
        "class_type": "PreviewImage",
        "inputs": {"images": [stitch, 0]},
        "_meta": {"title": "Preview Image"},
    }
    return {
        stitch: {"class_type": "ImageStitch", "inputs": inputs, "_meta": {"title": "Before and after"}},
        preview: shown,
    }
