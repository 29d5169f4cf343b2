"""What the example workflows are called, what their notes say, and where their nodes stand."""

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
    first. heights: of nodes that show pictures or text. photo: of examples/photos, for the pictures, which show its
    middle `zoom` times larger, or the sheet that the workflow makes. models: nodes that need SD 2.1's file. settings, views: what
    the page's workflow has beside that for programs: other inputs, by node, and nodes that only show pictures."""

    title: str
    text: str
    columns: tuple[Column, ...]
    heights: dict[str, int]
    photo: str = "barn.png"
    zoom: float = 1.6
    sheet: bool = False
    models: tuple[int, ...] = ()
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, Json] = field(default_factory=dict)

    @property
    def file_stem(self) -> str:
        """ComfyUI's page of templates shows file names, and searches nothing else."""
        return f"OSEDiff - {self.title}"

    def for_page(self, api: Json) -> Json:
        """The workflow for programs with the settings and the views, in the API format, too."""
        graph = copy.deepcopy(api)
        for key, inputs in self.settings.items():
            graph[key]["inputs"].update(inputs)
        return {**graph, **self.views}


def _compare(before: list[Any], after: list[Any]) -> Json:
    """The slider of Nodes 2.0."""
    inputs = {"image_a": before, "image_b": after, "compare_view": {"__value__": ["", ""]}}
    return {"class_type": "ImageCompare", "inputs": inputs, "_meta": {"title": "Compare Images"}}


def _side_by_side(before: list[Any], after: list[Any], stitch: str, preview: str) -> dict[str, Json]:
    inputs = {
        "image1": before,
        "image2": after,
        "direction": "right",
        "match_image_size": True,
        "spacing_width": 8,
        "spacing_color": "white",
    }
    return {
        stitch: {"class_type": "ImageStitch", "inputs": inputs, "_meta": {"title": "Before | after"}},
        preview: {
            "class_type": "PreviewImage",
            "inputs": {"images": [stitch, 0]},
            "_meta": {"title": "Preview Image"},
        },
    }


_CHAIN_VIEWS = {
    "9": _compare(["5", 1], ["7", 0]),
    **_side_by_side(["5", 1], ["7", 0], "10", "11"),
}


_FULL_MODEL = """**SD 2.1** is far better than the small model inside: in *{loader}* choose `v2-1_512-ema-pruned` as \
`base` and `osediff.pkl` as `weights`; the node *Download OSEDiff weights* gets both."""

_CHAIN = (
    Column(280, (Group("Models", PURPLE, ("2", "3")), Group("Prompt", GREEN, ("4",)))),
    Column(280, (Group("Restore", ORANGE, ("5", "6", "7")),)),
)
_RESULT = (
    Column(300, (Group("Result", BLUE, ("8", "9")),)),
    Column(370, (Group("Side by side", BLUE, ("10", "11")),)),
)
_RESULT_HEIGHTS = {"1": 320, "4": 280, "8": 330, "9": 330, "11": 440}

ABOUT = {
    "restore_photo": About(
        "Restore a photo",
        "Choose a picture in *Load Image* and run. It becomes 1024 pixels wide: `width` in *Encode LQ*; with 0 there, "
        "`scale` counts.\n\nThe slider of *Compare Images* needs Nodes 2.0; *Side by side* is for both kinds of nodes.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (Column(290, (Group("Picture", BLUE, ("1",)),)), *_CHAIN, *_RESULT),
        _RESULT_HEIGHTS,
        settings={"5": {"width": 1024}},
        views=_CHAIN_VIEWS,
    ),
    "restore_4k_tiles": About(
        "Large pictures in tiles",
        "*One-Step Denoise* works in overlapping tiles, so that memory does not grow with the picture. Set `width` in "
        "*Encode LQ* to 3840 for 4K: with the small model a processor takes minutes.\n\n`tile` in *Encode LQ* and *Tiled "
        "Decode* bounds the VAE's memory, too; the result stays the same.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (Column(290, (Group("Picture", BLUE, ("1",)),)), *_CHAIN, *_RESULT),
        _RESULT_HEIGHTS,
        "lighthouse.png",
        settings={"5": {"width": 1280, "tile": 0}, "7": {"tile": 0}},
        views=_CHAIN_VIEWS,
    ),
    "text_to_image": About(
        "Text to image (SD 2.1)",
        "*KSampler* paints with SD 2.1, *One-Step Denoise* restores its latent without decoding in between.\n\nIt needs "
        "**SD 2.1-base** in `models/checkpoints` and **osediff.pkl** in `models/osediff`; the node *Download OSEDiff "
        "weights* gets both. The small model inside cannot paint from text.",
        (
            Column(280, (Group("Base model", PURPLE, ("1",)),)),
            Column(280, (Group("Prompts", GREEN, ("2", "3")), Group("Size", BLUE, ("4",)))),
            Column(280, (Group("Paint", ORANGE, ("5",)), Group("OSEDiff", PURPLE, ("6",)))),
            Column(280, (Group("Restore", ORANGE, ("7", "8")),)),
            Column(400, (Group("Result", BLUE, ("9",)),)),
        ),
        {"1": 218, "2": 140, "3": 110, "6": 150, "9": 460},
        models=(1,),
        settings={
            "1": {"base": "v2-1_512-ema-pruned.safetensors", "weights": "none"},
            "5": {"cfg": 7.0},
            "6": {"weights": "osediff.pkl"},
        },
    ),
    "stock_nodes": About(
        "With ComfyUI's own nodes",
        "Only the step itself and the colours are this pack's. *VAE Decode (Tiled)* fits in the same way.\n\nComfyUI's *VAE "
        "Encode* crops to multiples of 8 pixels and drops alpha; *Encode LQ* keeps both.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Picture", BLUE, ("1",)),)),
            Column(290, (Group("Models", PURPLE, ("2",)), Group("Enlarge, prompt", GREEN, ("3", "4")))),
            Column(
                280,
                (Group("Restore", ORANGE, ("5", "6", "7")), Group("Colours", GREEN, ("8",))),
            ),
            Column(420, (Group("Result", BLUE, ("9", "10")),)),
        ),
        {"1": 320, "4": 160, "9": 330, "10": 330},
        "plane.png",
        settings={"3": {"scale_by": 1.5}},
        views={"10": _compare(["3", 0], ["8", 0])},
    ),
    "degrade_restore_compare": About(
        "Degrade, restore, compare",
        "Choose a *good* picture. *Degrade* makes it four times smaller and bad, as Real-ESRGAN does for training; the chain "
        "restores it, *Evaluate* measures how near it comes. The sheet: bad, restored, original.\n\nAnother `seed` is another "
        "degradation; `light` and `jpeg` are milder.\n\n" + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Good picture", BLUE, ("1",)),)),
            Column(280, (Group("Made bad", GREEN, ("2", "13")), Group("Models", PURPLE, ("3", "4")))),
            Column(280, (Group("Prompt", GREEN, ("5",)), Group("Encode", ORANGE, ("6",)))),
            Column(280, (Group("Restore", ORANGE, ("7", "8")), Group("Result", BLUE, ("11",)))),
            Column(320, (Group("Sheet", BLUE, ("9", "10", "12")), Group("Measure", GREEN, ("14",)))),
        ),
        {"1": 300, "5": 280, "11": 258, "12": 258, "13": 106},
        "parrots.png",
        sheet=True,
    ),
    "folder": About(
        "A folder of pictures",
        "All pictures of a folder are restored one after the other; memory does not grow with their number. Two examples come "
        "with the pack: put a folder of yours into ComfyUI's `input`, press R and choose it.\n\n"
        + _FULL_MODEL.format(loader="Load OSEDiff"),
        (
            Column(290, (Group("Pictures", BLUE, ("1",)),)),
            *_CHAIN,
            Column(440, (Group("Results", BLUE, ("8",)),)),
        ),
        {"4": 280, "8": 620},
        "parrots.png",
        zoom=2.5,
    ),
    "one_box": About(
        "All in one node",
        "Choose a picture in *Load Image* and run: it becomes 1024 pixels long, by `longest_side`; with 0 there, `scale` "
        "counts. *OSEDiff Upscale* is the chain of *Restore a photo* with its usual "
        "settings.\n\n" + _FULL_MODEL.format(loader="OSEDiff Upscale"),
        (
            Column(290, (Group("Picture", BLUE, ("1",)),)),
            Column(300, (Group("Restore", ORANGE, ("2",)),)),
            Column(360, (Group("Result", BLUE, ("3", "4")),)),
        ),
        {"1": 320, "3": 330, "4": 330},
        zoom=2.5,
        settings={"2": {"longest_side": 1024}},
        views={"4": _compare(["1", 0], ["2", 0])},
    ),
}
