"""Tools for ComfyUI's packs, by others, look at what the registry would get; none of them is online."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from other_programs import python_programs, run

ROOT = Path(__file__).parents[2]
TOOLS = ("comfy-cli==1.23.0", "comfy-test==0.4.15", "comfy-import-guard==1.3.0")


@pytest.fixture(scope="module")
def tools():
    return python_programs("tools", TOOLS)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository as it is now, committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def pack(tools, checkout):
    """What comfy-cli packs for the registry, unpacked where ComfyUI would have it."""
    run(checkout, tools / "comfy", "--skip-prompt", "--no-json", "node", "pack")
    folder = checkout.parent / "install" / "custom_nodes" / "osediff"
    with zipfile.ZipFile(checkout / "node.zip") as packed:
        packed.extractall(folder)
    return folder


def commit(folder):
    for line in (
        ["init", "--quiet"],
        ["add", "--all", "--force"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", "all"],
    ):
        subprocess.run(["git", *line], cwd=folder, check=True)


@pytest.mark.slow
def test_comfy_cli_finds_nothing_to_say(tools, checkout):
    said = run(checkout, tools / "comfy", "--skip-prompt", "--no-json", "node", "validate")
    assert "All validation checks passed" in said
    assert "warning" not in said.lower() and "error" not in said.lower()


@pytest.mark.slow
def test_comfy_cli_packs_what_graphs_need(pack):
    for name in ("__init__.py", "nodes", "osediff_core", "web", "locales", "example_workflows", "subgraphs"):
        assert (pack / name).exists(), name
    assert not any((pack / name).exists() for name in ("tests", "training", "benchmarks", "docs"))


@pytest.mark.slow
def test_comfy_test_finds_nothing_to_say_of_the_nodes(tools, pack):
    """Its rule against PyTorch's own layers is for nodes; the core, which knows no ComfyUI, is made of them."""
    assert "[JAVASCRIPT] PASSED" in run(
        pack, tools / "comfy-test", "lint", "--strict", "-k", "javascript", "."
    )
    said = run(pack, tools / "comfy-test", "lint", "--strict", "-k", "syntax", ".", may_fail=True)
    assert "all characters cp1252-safe" in said
    named = {line.strip()[:-1] for line in said.splitlines() if line.strip().endswith(".py:")}
    assert named and all(name.startswith("osediff_core/") for name in named), said


@pytest.mark.slow
def test_all_that_the_pack_uses_of_comfyui_is_there(tools, pack, comfyui, tmp_path):
    """Every reference to comfy.* and every call, resolved against ComfyUI's sources, wanted as a clone."""
    clone = tmp_path / "cache" / "ComfyUI"
    for folder in ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "app", "utils"):
        shutil.copytree(comfyui / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in comfyui.glob("*.py"):
        shutil.copy2(file, clone)
    commit(clone)
    subprocess.run(["git", "tag", "there"], cwd=clone, check=True)
    line = ["--cache-dir", clone.parent, "--offline", "--json", "check", "--comfy-dir", pack.parents[1]]
    said = json.loads(run(tmp_path, tools / "comfy-import-guard", *line, "--target", "there", "--no-update"))
    (report,) = said["packs"]
    assert report["verdict"] == "SAFE", report
    assert report["references"] > 100
