"""How the shipped workflows open in ComfyUI's page: so large that every text is drawn, and nothing over another."""

import json
import shutil

import pytest
from headless.browser import CHROMIUM, open_comfyui
from headless.workflow_notes import ABOUT
from server_graphs import ROOT

WINDOWS = {(1920, 1080): 0.8, (1440, 900): 0.62}  # the least zoom that a workflow may open at
CANVAS = {"dark": (0x22, 0x22, 0x22), "light": (0xD3, 0xD3, 0xD3)}  # ComfyUI's two palettes
_DRAWN = """() => {
    const texts = [], original = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        texts.push(String(text));
        return original.call(this, text, ...rest);
    };
    try { app.canvas.draw(true, true) } finally { CanvasRenderingContext2D.prototype.fillText = original }
    return texts;
}"""
_BOXES = """() => app.graph.nodes.map(node => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const box = element?.getBoundingClientRect(), rect = node.boundingRect;
    return { title: node.title, shown: element?.innerText ?? null,
        box: box ? [box.x, box.y, box.width, box.height] : [...rect] };
})"""


def workflow(name):
    return json.loads(
        (ROOT / "example_workflows" / f"{ABOUT[name].file_stem}.json").read_text(encoding="utf-8")
    )


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def page(request, server):
    """ComfyUI's page with one of its two renderers."""
    from headless import ComfyClient

    pytest.importorskip("playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"there is no {CHROMIUM}")
    client = ComfyClient(server.url)
    client.call("/settings/Comfy.VueNodes.Enabled", request.param == "nodes 2.0")
    try:
        with open_comfyui(server.url) as page:
            page.renderer = request.param
            yield page
    finally:
        client.call("/settings/Comfy.VueNodes.Enabled", False)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_text_is_drawn_at_the_zoom_at_which_a_workflow_opens(page, window):
    page.resize(*window)
    for name in ABOUT:
        content = workflow(name)
        page.load(content)
        scale = page.evaluate("() => app.canvas.ds.scale")
        assert scale >= WINDOWS[window], (name, scale)
        drawn = page.evaluate(_DRAWN)
        for group in content["groups"]:
            assert group["title"] in drawn, (name, group["title"])
        boxes = page.evaluate(_BOXES)
        for node in boxes:
            x, y, width, height = node["box"]
            if page.renderer == "classic":
                assert any(same(node["title"], text) for text in drawn), (name, node["title"], drawn)
            else:
                assert node["title"] in node["shown"], (name, node)
                assert x >= 0 and y >= 0 and x + width <= window[0] and y + height <= window[1], (name, node)
        assert not overlapping(boxes), (name, overlapping(boxes))


def same(title, drawn):
    """Whether a drawn text is the title, which ComfyUI cuts where it is too long."""
    return drawn == title or (drawn.endswith(("…", "...")) and title.startswith(drawn.rstrip("….")))


def overlapping(boxes):
    """Pairs of titles whose boxes lie over each other."""

    def over(a, b):
        return all(a[i] + 1 < b[i] + b[i + 2] and b[i] + 1 < a[i] + a[i + 2] for i in (0, 1))

    return [
        (a["title"], b["title"])
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if over(a["box"], b["box"])
    ]


@pytest.mark.parametrize("name", ABOUT)
def test_titles_of_groups_can_be_read_on_both_palettes(name):
    for group in workflow(name)["groups"]:
        color = tuple(int(group["color"][i : i + 2], 16) for i in (1, 3, 5))
        for canvas in CANVAS.values():
            tinted = [0.25 * mine + 0.75 * below for mine, below in zip(color, canvas, strict=True)]
            assert contrast(color, tinted) > (3 if canvas == CANVAS["dark"] else 1.5), group


def contrast(a, b):
    """WCAG's contrast of two colours in [0, 255]."""

    def luminance(color):
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)
        ]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_building_the_layout_again_changes_nothing():
    """The files are those that the layout gives for their nodes and links."""
    from headless.workflow_layout import arrange, extent

    for name, about in ABOUT.items():
        content = workflow(name)
        nodes = [node for node in content["nodes"] if node["type"] != "MarkdownNote"]
        again = arrange({**content, "nodes": json.loads(json.dumps(nodes))}, about)
        assert again["groups"] == content["groups"] and extent(again) == extent(content)
        assert [n["pos"] for n in again["nodes"]] == [n["pos"] for n in content["nodes"]]
