"""Checkpoints of a run whose files are not what the trainer wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import save_file

from training.run.checkpoints import load_checkpoint
from training.run.errors import TrainingError

GOOD = {"version": 1, "step": 3, "best": {"step": None, "value": float("inf")}, "data": [{"position": 1}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"unet.parameter.w": torch.ones(2)}, tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(GOOD))
    (tmp_path / "config.yaml").write_text("batch: 2\n")
    return tmp_path


def test_what_is_whole_is_read(folder: Path) -> None:
    found = load_checkpoint(folder)
    assert (found.values["step"], found.settings) == (3, {"batch": 2})


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "[" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        "{",
        "",
        '{"version": ' + "9" * 5000 + "}",
        *(
            json.dumps({**GOOD, key: value})
            for key in ("step", "best", "data")
            for value in (None, "x", -1.5, [], [3])
        ),
        json.dumps({key: value for key, value in GOOD.items() if key != "best"}),
    ],
    ids=range(23),
)
def test_a_state_that_says_nothing_useful_is_no_checkpoint(folder: Path, text: str) -> None:
    (folder / "state.json").write_text(text)
    with refused(TrainingError, folder):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"\x80\x02cos\nsystem\n(S'true'\ntR."])
def test_tensors_that_are_none_are_no_checkpoint(folder: Path, content: bytes) -> None:
    (folder / "state.safetensors").write_bytes(content)
    with refused(TrainingError, folder):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["[" * 5000, "a: &a [*a]", "\x00", "!!python/object/apply:os.system [true]", "3"]
)
def test_settings_that_cannot_be_read_are_as_none(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)
    assert load_checkpoint(folder).settings == {}
