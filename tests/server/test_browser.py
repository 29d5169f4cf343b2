"""ComfyUI's own page in a real Chromium: the shipped workflows open, mean what the API ones mean, and run."""

import json
import shutil

import pytest
from headless.browser import CHROMIUM, open_comfyui
from headless.workflow_notes import ABOUT
from PIL import Image
from server_graphs import ROOT

FOLDER = ROOT / "example_workflows"
NAMES = sorted(ABOUT)
PACK = "ComfyUI-OSEDiff"


@pytest.fixture(scope="module")
def page(server):
    pytest.importorskip("playwright")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"there is no {CHROMIUM}")
    folder = server.base / "input"
    with Image.open(ROOT / "examples" / "photos" / "barn.png") as barn:
        barn.crop((60, 20, 108, 52)).save(folder / "osediff_barn.png")
    with open_comfyui(server.url) as page:
        yield page


def ui_workflow(name):
    return ui_workflow_of(ABOUT[name])


def ui_workflow_of(about):
    return json.loads((FOLDER / f"{about.file_stem}.json").read_text(encoding="utf-8"))


def small(workflow):
    """The workflow itself, which enlarges the picture four times, instead of to the width it says."""
    (encode,) = (node for node in workflow["nodes"] if node["type"] == "OSEDiff_EncodeLQ")
    encode["widgets_values"][1] = 0
    return workflow


def test_every_workflow_has_its_twin_and_its_picture():
    assert set(NAMES) == {path.stem for path in (FOLDER / "api").glob("*.json")}
    for suffix in ("json", "jpg"):
        found = {path.stem for path in FOLDER.glob(f"*.{suffix}")}
        assert found == {about.file_stem for about in ABOUT.values()}


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_and_is_the_one_for_the_api(page, name):
    workflow = ui_workflow(name)
    page.load(workflow)
    nodes = page.nodes()
    assert len(nodes) == len(workflow["nodes"]) and all(node["known"] for node in nodes), nodes
    assert page.api() == ABOUT[name].for_page(json.loads((FOLDER / "api" / f"{name}.json").read_text()))
    assert not page.errors


def test_a_workflow_runs_from_the_page(page, server):
    page.load(small(ui_workflow("restore_photo")))
    event, detail = page.queue()
    assert event == "execution_success", detail
    entry = page.evaluate("async id => await (await fetch(`/history/${id}`)).json()", detail["prompt_id"])
    shown = [o["images"] for o in entry[detail["prompt_id"]]["outputs"].values() if o.get("images")]
    ((image,),) = (
        [i for i in images if i["type"] == "output"] for images in shown if images[0]["type"] == "output"
    )
    assert (server.base / "output" / image["subfolder"] / image["filename"]).is_file()
    # waits until the result is shown on its node
    page.wait_for_function(
        """() => { const shown = app.graph.nodes.filter(n => n.type == 'SaveImage').map(n => (n.imgs || []).length);
            return shown.length == 1 && shown[0] == 1 }"""
    )
    assert not page.errors


def test_a_second_run_from_the_page_computes_nothing(page):
    """No widget changes by itself from run to run."""
    event, detail = page.queue()
    assert event == "execution_success"
    entry = page.evaluate("async id => await (await fetch(`/history/${id}`)).json()", detail["prompt_id"])
    messages = dict(entry[detail["prompt_id"]]["status"]["messages"])
    ran = page.api().keys() - messages["execution_cached"]["nodes"]
    # ComfyUI's own slider makes its temporary pictures anew
    assert {page.api()[node]["class_type"] for node in ran} <= {"ImageCompare"}


def test_a_warning_is_a_message_of_the_page(page):
    """Of a node inside a box, too, which the page does not show."""
    page.load(small(ui_workflow("restore_photo")))
    page.evaluate(
        """() => {
            const by = type => app.graph.nodes.find(n => n.type == type);
            const flip = LiteGraph.createNode('LatentFlip');
            app.graph.add(flip);
            by('OSEDiff_EncodeLQ').connect(0, flip, 0);
            flip.connect(0, by('OSEDiff_Denoise'), by('OSEDiff_Denoise').inputs.findIndex(i => i.name == 'latent'));
        }"""
    )
    event, detail = page.queue()
    assert event == "execution_success", detail
    page.wait_for_function(
        """() => [...document.querySelectorAll('.p-toast-message')]
            .some(message => message.innerText.includes('Another node changed'))"""
    )
    assert not page.errors


def test_the_blueprint_runs(page):
    """The subgraph between Load Image and Save Image, as the node library puts it there."""
    blueprint = json.loads((ROOT / "subgraphs" / "OSEDiff Restore.json").read_text())
    page.load(blueprint)
    page.evaluate(
        """() => {
            const [box] = app.graph.nodes;
            const load = LiteGraph.createNode('LoadImage'), save = LiteGraph.createNode('SaveImage');
            app.graph.add(load); app.graph.add(save);
            load.widgets.find(w => w.name == 'image').value = 'osediff_barn.png';
            for (const [slot, input] of box.inputs.entries()) if (input.type == 'IMAGE') load.connect(0, box, slot);
            box.connect(box.outputs.findIndex(o => o.type == 'IMAGE'), save, 0);
        }"""
    )
    event, detail = page.queue()
    assert event == "execution_success", detail
    assert not page.errors


def test_names_are_chinese_in_a_chinese_comfyui_and_the_schemas_in_an_english_one(page, client):
    shown = """() => { const node = LiteGraph.createNode('OSEDiff_EncodeLQ');
        return [node.title, node.widgets.map(w => w.label ?? w.name)] }"""
    client.call("/settings/Comfy.Locale", "zh")
    try:
        page.reload()
        title, labels = page.evaluate(shown)
    finally:
        client.call("/settings/Comfy.Locale", "en")
        page.reload()
    names = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text())["OSEDiff_EncodeLQ"]
    assert title == names["display_name"] != "Encode LQ"
    assert names["inputs"]["scale"]["name"] in labels
    title, labels = page.evaluate(shown)
    assert title == "Encode LQ (OSEDiff)" and "scale" in labels


def test_notes_groups_and_titles_are_chinese_in_a_chinese_comfyui(page, client):
    texts = json.loads((ROOT / "web" / "locales" / "zh.json").read_text(encoding="utf-8"))
    client.call("/settings/Comfy.Locale", "zh")
    try:
        page.reload()
        page.load(ui_workflow("two_methods"))
        groups, notes, titles = page.evaluate(
            """() => [app.graph.groups.map(g => g.title),
                app.graph.nodes.filter(n => n.type == 'MarkdownNote').map(n => [n.title, n.widgets[0].value]),
                app.graph.nodes.map(n => n.title)]"""
        )
    finally:
        client.call("/settings/Comfy.Locale", "en")
        page.reload()
    about = ABOUT["two_methods"]
    assert groups == [texts[group.title] for column in about.columns for group in column.groups]
    assert notes == [
        [
            texts[f"OSEDiff: {about.title}"],
            "\n\n".join(texts[part] for part in about.text.split("\n\n")),
        ]
    ]
    assert texts["Save comparison"] in titles and "加载图像" in titles


def test_every_text_of_the_workflows_has_its_chinese():
    texts = json.loads((ROOT / "web" / "locales" / "zh.json").read_text(encoding="utf-8"))
    said = set()
    for about in ABOUT.values():
        said |= {f"OSEDiff: {about.title}", *about.text.split("\n\n")}
        said |= {group.title for column in about.columns for group in column.groups}
        said |= {node["title"] for node in ui_workflow_of(about)["nodes"] if "title" in node}
    assert said - {"OSEDiff"} == set(texts) - {"OSEDiff"}


def test_the_example_picture_is_there_when_a_workflow_opens(page, server):
    example = server.base / "input" / "osediff_plane.png"
    example.unlink(missing_ok=True)
    page.load(ui_workflow("one_box"))
    assert example.is_file()
    chosen, offered = page.evaluate(
        """() => { const [w] = app.graph.nodes.find(n => n.type == 'LoadImage').widgets;
            return [w.value, w.options.values] }"""
    )
    assert chosen == "osediff_plane.png" and chosen in offered
    assert not page.errors


def test_scores_are_on_the_node_that_measures(page, server):
    with Image.open(ROOT / "examples" / "photos" / "parrots.png") as parrots:
        parrots.crop((0, 0, 64, 48)).convert("RGB").save(server.base / "input" / "osediff_original.jpg")
    page.load(ui_workflow("degrade_restore_compare"))
    event, detail = page.queue()
    assert event == "execution_success", detail
    page.wait_for_function(
        """() => { const node = app.graph.nodes.find(n => n.type == 'OSEDiff_Evaluate');
            return node.widgets.some(w => w.name == 'scores' && w.value.includes('PSNR')) }"""
    )
    assert "scores" not in json.dumps(page.api())  # nothing that the server would be asked for


def test_the_page_of_templates_finds_the_pack_by_its_name(page):
    page.browse_templates("osediff")
    assert set(page.templates()) >= {about.file_stem for about in ABOUT.values()}
    page.choose_template(ABOUT["one_box"].file_stem)
    assert "OSEDiff_Upscale" in {node["type"] for node in page.nodes()}


def test_templates_blueprint_and_help_are_served(client):
    assert set(client.call("/api/workflow_templates")[PACK]) == {about.file_stem for about in ABOUT.values()}
    assert "OSEDiff Restore" in {entry["name"] for entry in client.call("/global_subgraphs").values()}
    for language in ("en", "zh"):
        page = client._request(f"/extensions/{PACK}/docs/OSEDiff_EncodeLQ/{language}.md").decode()
        assert page.startswith("# ")
