"""Imports go one way: down inside the core and the nodes, and from the nodes and the training to the core."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def statements(file: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that run, also within functions; not those for types alone."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting.extend(ast.iter_child_nodes(node))


def relative_imports(file: Path, files: set[Path]) -> Iterator[Path]:
    """The files that `from .x import y` names: modules, or what holds a name."""
    for found in statements(file):
        if isinstance(found, ast.ImportFrom) and found.level:
            place = file.parents[found.level - 1].joinpath(*(found.module or "").split("."))
            for name in found.names:
                wanted = (place / f"{name.name}.py", place.with_suffix(".py"), place / "__init__.py")
                yield next((path for path in wanted if path in files), place)


@pytest.mark.parametrize("folder", ["osediff_core", "nodes"])
def test_there_is_no_circle(folder):
    files = set((ROOT / folder).rglob("*.py"))
    TopologicalSorter({file: set(relative_imports(file, files)) - {file} for file in files}).prepare()


def test_the_core_knows_neither_comfyui_nor_nodes_nor_training():
    for file in (ROOT / "osediff_core").rglob("*.py"):
        for found in statements(file):
            modules = (
                [found.module or ""] if isinstance(found, ast.ImportFrom) else [n.name for n in found.names]
            )
            names = {module.partition(".")[0] for module in modules}
            assert not names & {"comfy", "comfy_api", "folder_paths", "nodes", "training", "osediff_core"}, (
                file
            )
            level = found.level if isinstance(found, ast.ImportFrom) else 0
            assert level <= len(file.relative_to(ROOT).parts) - 1, file


def test_the_trainer_knows_no_recipe():
    """The embedded models' recipes are made over it, and may go without it noticing."""
    files = set((ROOT / "training").rglob("*.py"))
    recipes = ROOT / "training" / "recipes"
    for file in files - set(recipes.rglob("*.py")):
        assert not any(path.is_relative_to(recipes) for path in relative_imports(file, files)), file


def test_ray_is_loaded_by_those_who_ask_for_it():
    probe = (
        "import sys, osediff_core, osediff_core.cluster.run, osediff_core.cluster.worker\n"
        "from osediff_core import OneStepGenerator, restore_picture\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('ray', 'pyarrow')])"
    )
    loaded = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert loaded.stdout == "[]\n", loaded.stderr
    for file in [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py")]:
        assert "cluster" not in "".join(ast.unparse(found) for found in statements(file)), file
