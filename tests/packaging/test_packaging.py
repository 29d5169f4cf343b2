"""What the Comfy registry asks of the repository."""

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_takes_the_project(pyproject):
    project, comfy = pyproject["project"], pyproject["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9_-]{0,99}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["urls"]["Repository"].startswith("https://")
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"] == ">=0.30.0"
    for key, check in (("Icon", lambda w, h: w == h <= 400), ("Banner", lambda w, h: w * 9 == h * 21)):
        picture = ROOT / comfy[key].partition("/main/")[2]
        assert check(*Image.open(picture).size), key
        assert picture.stat().st_size < 300_000


def test_the_package_says_that_it_has_types(pyproject):
    assert (ROOT / "osediff_core" / "py.typed").is_file()
    assert "py.typed" in pyproject["tool"]["setuptools"]["package-data"]["*"]


def test_nothing_that_comfyui_has_is_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if line and not line.startswith("#")]
    assert asked and all(re.fullmatch(r"[a-z_]+>=[0-9.]+", line) for line in asked)
    assert not {line.partition(">")[0] for line in asked} & {
        "torch",
        "torchvision",
        "numpy",
        "diffusers",
        "peft",
    }


def test_the_pack_leaves_out_what_graphs_do_not_need_and_nothing_else():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    ignored = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    # without the leading slash docs/ would leave out web/docs/, too
    assert all(line.startswith("/") for line in ignored)
    starts = tuple(line[1:] for line in ignored)
    kept = {name for name in listed.stdout.splitlines() if not name.startswith(starts)}
    for needed in (
        "__init__.py",
        "nodes/__init__.py",
        "osediff_core/tiny/osediff.safetensors",
        "osediff_core/tiny/vae/latent_rgb.json",
        "web/docs/OSEDiff_Load/en.md",
        "locales/zh/nodeDefs.json",
        "examples/photos/barn.png",
        "example_workflows/OSEDiff - Restore a photo.json",
        "subgraphs/OSEDiff Restore.json",
        "requirements.txt",
        "LICENSE",
        "NOTICE",
    ):
        assert needed in kept
    assert not any(name.startswith(("tests/", "training/", ".ci/")) for name in kept)
    assert sum((ROOT / name).stat().st_size for name in kept) < 25_000_000
