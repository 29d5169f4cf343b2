"""A real ComfyUI with this pack, started once for all tests that ask for it."""

import itertools
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `server_graphs`

from headless import ComfyClient, ComfyServer
from PIL import Image
from server_graphs import ROOT


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """Runs until the last test; its models/, input/ and output/ are in server.base."""
    import aiohttp  # noqa: F401  now, as a client that imports it first would miss the beginning of a run's progress

    front_end = os.environ.get("OSEDIFF_FRONTEND")
    arguments = ["--front-end-root", front_end] if front_end else []
    with ComfyServer(comfyui, tmp_path_factory.mktemp("comfyui"), arguments=arguments) as server:
        yield server
        assert server.running, f"ComfyUI ended during the tests:\n{server.log()[-3000:]}"
    assert not server.running


@pytest.fixture
def client(server):
    return ComfyClient(server.url)


@pytest.fixture
def restore_photo():
    """The workflow for the API that the pack ships, as a graph of its own for each test."""
    return json.loads((ROOT / "example_workflows" / "api" / "restore_photo.json").read_text())


_taken = itertools.count()


@pytest.fixture
def photo(tmp_path):
    """A small photo (48 x 32), another one for each test, so that ComfyUI has no result for it yet."""
    left = next(_taken) % (192 - 48)
    with Image.open(ROOT / "examples" / "photos" / "barn.png") as barn:
        barn.crop((left, 0, left + 48, 32)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
