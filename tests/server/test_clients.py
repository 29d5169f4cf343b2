"""Clients that others wrote run the pack's workflow: in a virtual environment of their own, made once, in the cache."""

import json

import pytest
from other_programs import javascript_programs, python_programs, run
from PIL import Image
from server_graphs import with_photo

CLIENTS = ("comfy-api-simplified==1.6.0", "comfykit==0.1.12", "comfy-cli==1.23.0")

# Each program: URL of the server, file of the workflow, file of the photo, file for the result.
COMFY_API_SIMPLIFIED = """
import sys
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
url, workflow, photo, result = sys.argv[1:]
api, graph = ComfyApiWrapper(url), ComfyWorkflowWrapper(workflow)
load, = [node["_meta"]["title"] for node in graph.values() if node["class_type"] == "LoadImage"]
save, = [node["_meta"]["title"] for node in graph.values() if node["class_type"] == "SaveImage"]
uploaded = api.upload_image(photo)
graph.set_node_param(load, "image", uploaded["subfolder"] + "/" + uploaded["name"])
(image,) = api.queue_and_wait_images(graph, save).values()
open(result, "wb").write(image)
"""
COMFYKIT = """
import asyncio, sys, urllib.request
from comfykit import ComfyKit
url, workflow, photo, result = sys.argv[1:]
done = asyncio.run(ComfyKit(comfyui_url=url, executor_type="websocket").execute(workflow))
assert done.status == "completed", done
open(result, "wb").write(urllib.request.urlopen(done.images[0]).read())
"""


SAINTNO_SDK = """
import { readFileSync, writeFileSync } from "node:fs";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";
const [url, workflow, photo, result] = process.argv.slice(2);
const graph = JSON.parse(readFileSync(workflow, "utf-8"));
const idOf = (kind) => Object.keys(graph).find((id) => graph[id].class_type === kind);
const api = await new ComfyApi(url).init().waitForReady();
const uploaded = await api.uploadImage(readFileSync(photo), "from_node.png");
const builder = new PromptBuilder(graph, ["image"], ["images"])
  .setInputNode("image", `${idOf("LoadImage")}.inputs.image`)
  .setOutputNode("images", idOf("SaveImage"))
  .input("image", uploaded.info.filename);
const seen = [];
const done = await new Promise((resolve, reject) => {
  const call = new CallWrapper(api, builder);
  call.onProgress(({ node, value, max }) => seen.push([node, value, max]));
  call.onFinished(resolve).onFailed(reject).run();
});
const image = await api.getImage(done.images.images[0]);
writeFileSync(result, Buffer.from(await image.arrayBuffer()));
console.log(JSON.stringify(seen));
process.exit(0);
"""


@pytest.fixture(scope="session")
def clients():
    return python_programs("clients", CLIENTS)


@pytest.fixture
def workflow(client, restore_photo, photo, tmp_path):
    """The workflow as a file, with a photo that is on the server."""
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(with_photo(restore_photo, client.upload(photo))))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [COMFY_API_SIMPLIFIED, COMFYKIT], ids=["comfy-api-simplified", "comfykit"]
)
def test_a_library_gets_the_image(server, clients, workflow, photo, tmp_path, program):
    result = tmp_path / "result.png"
    run(tmp_path, clients / "python", "-c", program, server.url, workflow, photo, result)
    with Image.open(result) as image:
        assert image.size == (192, 128)


@pytest.mark.slow
def test_comfy_cli_runs_the_workflow(server, clients, workflow, client, tmp_path):
    before = set(client.call("/history"))
    where = ("--host", "127.0.0.1", "--port", str(server.port))
    run(tmp_path, clients / "comfy", "--skip-prompt", "run", "--workflow", workflow, "--wait", *where)
    (new,) = set(client.call("/history")) - before
    assert client.wait(new)["status"]["status_str"] == "success"


@pytest.mark.slow
def test_a_library_for_node_gets_the_image(server, workflow, photo, tmp_path):
    """It hears of progress by the older messages, one bar for each node."""
    program = javascript_programs() / "program.mjs"  # beside the packages, where Node looks for them
    program.write_text(SAINTNO_SDK)
    said = run(tmp_path, "node", program, server.url, workflow, photo, tmp_path / "result.png")
    with Image.open(tmp_path / "result.png") as image:
        assert image.size == (192, 128)
    bars = {}
    for node, value, most in json.loads(said.splitlines()[-1]):
        bars.setdefault(node, []).append((value, most))
    assert bars
    for steps in bars.values():
        assert sorted(steps) == steps and steps[-1][0] == steps[-1][1]
