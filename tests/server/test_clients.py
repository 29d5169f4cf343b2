"""Clients that others wrote run the pack's workflow: in a virtual environment of their own, made once, in the cache."""

import json
import os
import shutil
import subprocess
import sys
import venv

import pytest
from headless import cache_folder
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


@pytest.fixture(scope="session")
def clients():
    """The folder of the programs of an environment that has the clients."""
    folder = cache_folder() / f"clients-py{sys.version_info.major}{sys.version_info.minor}"
    bin_folder = folder / ("Scripts" if sys.platform == "win32" else "bin")
    complete = folder / "complete.txt"
    if not complete.is_file() or complete.read_text() != "\n".join(CLIENTS):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        line = [bin_folder / "python", "-m", "pip", "install", "--quiet", *CLIENTS]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(
                f"pip could not install {', '.join(CLIENTS)}: {done.stderr.strip().splitlines()[-1:]}"
            )
        complete.write_text("\n".join(CLIENTS))
    return bin_folder


@pytest.fixture
def workflow(client, restore_photo, photo, tmp_path):
    """The workflow as a file, with a photo that is on the server."""
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(with_photo(restore_photo, client.upload(photo))))
    return file


def run(tmp_path, *line):
    """Runs a client that may write to its home and must not report to its makers."""
    environment = {**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
