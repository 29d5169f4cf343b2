"""What reads models and data of others never runs what they bring: each loader of the repository by its call."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("osediff_core", "nodes", "training", "benchmarks", "examples")
# Classes of a library that fetches no code, however it is asked.
PLAIN = {"AutoencoderKL", "UNet2DConditionModel", "DDPMScheduler", "EfficientNet"}


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of one of these attributes or functions, with its place."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    called = (
                        node.func.attr
                        if isinstance(node.func, ast.Attribute)
                        else getattr(node.func, "id", "")
                    )
                    if called in names:
                        yield f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}", node


def option(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def test_no_model_brings_code() -> None:
    found = 0
    for place, call in calls("from_pretrained"):
        assert isinstance(call.func, ast.Attribute)
        if getattr(call.func.value, "id", "") not in PLAIN:
            found += 1
            assert option(call, "trust_remote_code") is False, place
    assert found > 3


def test_no_pickle_is_trusted() -> None:
    found = list(calls("load", "load_state_dict_from_url"))
    torch_loads = [
        (p, c)
        for p, c in found
        if ast.unparse(c.func) in ("torch.load", "torch.hub.load_state_dict_from_url")
    ]
    assert torch_loads
    for place, call in torch_loads:
        assert option(call, "weights_only") is True, place
    for place, call in found:
        assert not option(call, "allow_pickle"), place
        assert ast.unparse(call.func) not in (
            "pickle.load",
            "joblib.load",
            "yaml.load",
        ), place


@pytest.mark.parametrize("name", ["loads", "Unpickler", "unsafe_load", "full_load", "eval", "exec"])
def test_what_runs_what_it_reads_is_not_called(name: str) -> None:
    for place, call in calls(name):
        called = ast.unparse(call.func)
        assert called not in ("eval", "exec", "pickle.loads", "pickle.Unpickler", "marshal.loads"), place
        assert not called.startswith("yaml."), place


def test_what_is_fetched_from_the_hub_is_named_file_by_file() -> None:
    for place, call in calls("snapshot_download"):
        assert any(keyword.arg == "allow_patterns" for keyword in call.keywords), place
