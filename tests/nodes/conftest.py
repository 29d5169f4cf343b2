"""The pack inside this process, on ComfyUI's own classes: what a server would run, with every tensor at hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
NODES = "osediff_pack.nodes."
sys.path.insert(0, str(Path(__file__).parent))  # for `node_graph`


@pytest.fixture(scope="session")
def pack(comfyui, tmp_path_factory):
    """The pack as ComfyUI imports it: its modules by name, `pack.load`, `pack.native_vae` and so on."""
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = True  # before anything asks for a device
    import folder_paths

    output = tmp_path_factory.mktemp("output")
    folder_paths.set_output_directory(str(output))
    spec = importlib.util.spec_from_file_location("osediff_pack", ROOT / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    sys.modules["osediff_pack"] = package
    spec.loader.exec_module(package)
    modules = {
        name.removeprefix(NODES).replace(".", "_"): module
        for name, module in sys.modules.items()
        if name.startswith(NODES)
    }
    return SimpleNamespace(**modules, core=sys.modules["osediff_pack.osediff_core"], output=output)


@pytest.fixture(autouse=True)
def _as_in_a_graph():
    """ComfyUI runs nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def tiny(pack):
    """MODEL, CLIP, VAE of Load OSEDiff with its defaults, in fp32."""
    with torch.inference_mode():
        return pack.load.LoadOSEDiff.execute(
            pack.folders.EMBEDDED, pack.folders.EMBEDDED, 1.0, 1.0, "fp32"
        ).args


@pytest.fixture(scope="session")
def generator():
    """The core's own, on diffusers, with the same weights."""
    from osediff_core import OneStepGenerator

    return OneStepGenerator.load("tiny", dtype="fp32", device="cpu")


@pytest.fixture(scope="session")
def photo():
    """IMAGE (1, 32, 48, 3)."""
    with Image.open(ROOT / "examples" / "photos" / "barn.png") as barn:
        crop = np.asarray(barn.convert("RGB").crop((20, 30, 68, 62)), dtype=np.float32)
    return torch.from_numpy(crop / 255)[None]
