"""The pack in a running ComfyUI: it is imported, its nodes are there, work is queued, followed, stopped, fetched."""

import io
import os
import re

import pytest
from headless import ComfyError, ComfyInterrupted, images
from headless.server import PACK_NAME
from PIL import Image
from server_graphs import ROOT, long_stock, stock, with_photo


def test_the_pack_is_imported_without_error_in_half_a_second(server):
    log = server.log()
    line = re.search(rf"([\d.]+) seconds(.*): .*{PACK_NAME}$", log, re.MULTILINE)
    assert line is not None, log
    assert line[2] == "", log  # (IMPORT FAILED)
    busy = max(1, os.getloadavg()[0] / os.cpu_count()) if hasattr(os, "getloadavg") else 1
    assert float(line[1]) < 0.5 * busy  # where more runs than there are cores for, all takes so much longer


def test_all_nodes_of_the_pack_are_there(client):
    sources = "".join(file.read_text() for file in (ROOT / "nodes").glob("*.py"))
    written = set(re.findall(r'node_id="(\w+)"', sources))
    served = {name: info for name, info in client.object_info().items() if info["category"] == "OSEDiff"}
    assert written == set(served) and written
    for name, info in served.items():
        assert info["display_name"] and info["description"], name


def test_restores_a_photo_and_tells_of_progress(client, restore_photo, photo):
    steps = []
    graph = with_photo(restore_photo, client.upload(photo))
    entry = client.wait(client.queue(graph), lambda *step: steps.append(step))
    with Image.open(io.BytesIO(client.fetch(images(entry)[0]))) as restored:
        assert restored.size == (192, 128)
    titles = {node["_meta"]["title"] for node in graph.values()}
    assert steps and {title for title, _, _ in steps} <= titles


def test_keeps_the_workflow_in_the_image(client):
    entry = client.wait(client.queue(stock(), workflow={"nodes": [], "version": 0.4}))
    with Image.open(io.BytesIO(client.fetch(images(entry)[0]))) as image:
        assert image.size == (64, 32)
        assert set(image.text) == {"prompt", "workflow"}


def test_an_upload_gets_a_name_of_its_own(client, tmp_path):
    names = set()
    for color in ("red", "blue"):
        file = tmp_path / color / "the same ü.png"
        file.parent.mkdir()
        Image.new("RGB", (8, 8), color).save(file)
        names.add(client.upload(file))
        assert client.upload(file) in names  # the same again is not stored twice
    assert len(names) == 2


@pytest.mark.parametrize(
    ("class_type", "inputs", "sentence"),
    [
        ("LoadImage", {"image": "no.png"}, r'refused the workflow: "The photo" \(LoadImage\): .*no\.png'),
        ("NotANode", {}, r"refused the workflow: .*The photo.* not found"),
    ],
)
def test_a_refused_workflow_is_one_sentence(client, class_type, inputs, sentence):
    graph = stock()
    graph["1"] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": "The photo"}}
    with pytest.raises(ComfyError, match=sentence) as caught:
        client.queue(graph)
    assert "\n" not in str(caught.value)


def test_a_failure_names_the_node(client):
    with pytest.raises(ComfyError, match=r'The node "Outside" \(SaveImage\) failed: .+') as caught:
        client.wait(client.queue(stock("Outside", "/../../outside")))
    assert "\n" not in str(caught.value)


def test_interrupts_what_runs_and_what_waits(client):
    running, waiting = client.queue(long_stock()), client.queue(stock(prefix="waiting"))
    client.interrupt(waiting)
    with pytest.raises(ComfyInterrupted, match="taken out of the queue"):
        client.wait(waiting)
    with pytest.raises(ComfyInterrupted, match="was interrupted"):
        client.wait(running, lambda *_: client.interrupt(running))


def test_gives_up_after_the_time_limit(client):
    slow = client.queue(long_stock())
    with pytest.raises(ComfyError, match=r"not done after 0\.5 seconds"):
        client.wait(slow, timeout=0.5)
    client.interrupt(slow)


def test_free_drops_cached_results(client):
    def cached(graph):
        messages = client.wait(client.queue(graph))["status"]["messages"]
        return dict(messages)["execution_cached"]["nodes"]

    graph = stock(prefix="cached")
    cached(graph)
    assert cached(graph) == ["1", "2"]
    client.free()
    assert [] in (
        cached(graph) for _ in range(2)
    )  # the server may take up the first one before it frees anything


def test_says_that_there_is_no_server(client, server):
    client.url = server.url.replace(str(server.port), "1")
    with pytest.raises(ComfyError, match="No ComfyUI answers at"):
        client.object_info()
