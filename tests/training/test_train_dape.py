"""DAPE's trainer as a command: what it learns, kill it, resume it, stop it, give it what it cannot use."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mini_models.taggers import write_mini_tagger
from run_settings import soft_pictures, write_settings
from safetensors.torch import load_file

from osediff_core.dape import read_tagger
from training.dape.train import main

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return soft_pictures(tmp_path_factory.mktemp("pictures"), 4, (12, 9), (96, 72))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return write_mini_tagger(tmp_path_factory.mktemp("tagger") / "mini.safetensors")


@pytest.fixture
def make_config(tagger, pictures, tmp_path):
    """(name, changes) -> a configuration file for a run in tmp_path/name."""

    def make(name, **changes):
        config = {
            "output": str(tmp_path / name),
            "steps": STEPS,
            "batch": 2,
            "device": "cpu",
            "save_every": 2,
            "log_every": 1,
            "keep": 2,
            "loggers": [],
            "data": {
                "sources": [{"path": str(pictures)}], "resolution": 64, "degradation": "light", "workers": 0,
            },
            "model": {"tagger": str(tagger), "rank": 4},
            "optim": {"learning_rate": 1e-2, "warmup": 2, "milestones": [4], "ema": 0.9},
            "validation": {"path": str(pictures), "every": 3, "limit": 2, "size": 64, "preset": "light"},
            "export_tagger": "fp32",
        }  # fmt: skip
        return str(write_settings(tmp_path / f"{name}.yaml", config, changes))

    return make


def command(config, *settings):
    return [sys.executable, str(ROOT / "training/dape/train.py"), "--config", config, *settings]


def rows_of(folder, kind):
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["values"]) for row in rows if row["kind"] == kind]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_run_goes_on_from_a_checkpoint_as_if_nothing_had_happened(make_config, tmp_path, one_thread):
    assert main(["--config", make_config("whole")]) == 0
    start = min((tmp_path / "whole/checkpoints").iterdir())
    assert main(["--config", make_config("again"), f"resume={start}"]) == 0
    last = f"checkpoints/step_{STEPS:08d}/state.safetensors"
    assert_same(load_file(tmp_path / "again" / last), load_file(tmp_path / "whole" / last))
    first = int(start.name.removeprefix("step_")) + 1
    assert 1 < first < STEPS
    assert [step for step, _ in rows_of(tmp_path / "again", "train")] == list(range(first, STEPS + 1))
    assert (tmp_path / "whole/report.html").exists()


@pytest.mark.slow
def test_ctrl_c_saves_first(make_config, tmp_path):
    config = make_config("stopped", steps=5000)
    process = subprocess.Popen(command(config), stderr=subprocess.PIPE, text=True)
    log = tmp_path / "stopped/metrics.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 2, ' in log.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in errors and "resume=latest" in errors
    last = rows_of(tmp_path / "stopped", "train")[-1][0]
    assert (tmp_path / f"stopped/checkpoints/step_{last:08d}/state.json").exists()


@pytest.mark.slow
def test_the_student_comes_nearer_and_its_files_say_what_validation_saw(make_config, tmp_path, one_thread):
    config = make_config("run", steps=60, optim={"milestones": [40], "ema": 0.0}, validation={"every": 60})
    assert main(["--config", config]) == 0
    (_, before), (_, after) = rows_of(tmp_path / "run", "validation")
    assert after["loss"] < 0.9 * before["loss"] and after["features"] < before["features"]
    assert 0 <= before["f1"] <= 1 and before["recall"] > 0
    rates = [values["learning_rate"] for _, values in rows_of(tmp_path / "run", "train")]
    assert rates[0] == 1e-2 and rates[-1] == 5e-3
    tagger = tmp_path / "tagger.safetensors"
    write_mini_tagger(tagger)
    expected = read_tagger(tagger, tmp_path / "run/DAPE.pth").tensors
    assert_same(read_tagger(tmp_path / "run/tagger.safetensors").tensors, expected)
    assert_same(read_tagger(tagger, tmp_path / "run/weights.safetensors").tensors, expected)
    assert not torch.equal(
        expected["visual_encoder.layers.0.blocks.0.attn.qkv.weight"],
        read_tagger(tagger, dape=False).tensors["visual_encoder.layers.0.blocks.0.attn.qkv.weight"],
    )


@pytest.mark.parametrize(("changes", "code", "words"), [
    ({"model": {"tagger": "/nowhere/ram.pth"}}, 1, ["/nowhere/ram.pth"]),
    ({"model": {"start_from": "/nowhere/DAPE.pth"}}, 1, ["/nowhere/DAPE.pth"]),
    ({"model": {"rank": 0}}, 2, ["model.rank is 0"]),
    ({"model": {"dtype": "bf16"}}, 2, ["model.dtype", "precision"]),
    ({"optim": {"milestones": [5, 5]}}, 2, ["milestones", "must rise"]),
    ({"optim": {"milestones": []}}, 2, ["milestones", "multistep"]),
    ({"loss": {"features": 0.0, "logits": 0.0}}, 2, ["nothing to learn"]),
    ({"loss": {"feature": 1.0}}, 2, ["loss.feature", "did you mean loss.features?"]),
    ({"data": {"sources": [{"path": "/nowhere"}]}}, 1, ["no folder /nowhere"]),
    ({"validation": {"path": "/nowhere"}}, 1, ["/nowhere"]),
])  # fmt: skip
def test_a_wrong_setting_stops_the_run_before_it_starts(changes, code, words, make_config, tmp_path, caplog):
    assert main(["--config", make_config("run", **changes)]) == code, caplog.text
    message = caplog.records[-1].getMessage()
    assert "\n" not in message and message.endswith((".", "?"))
    for word in words:
        assert word in message, message
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_a_run_is_never_overwritten(make_config, tmp_path, caplog):
    config = make_config("run", loss={"logits": 1e38}, validation={"path": None})
    assert main(["--config", config]) == 1
    assert "Step 1" in caplog.records[-1].getMessage() and "not finite" in caplog.records[-1].getMessage()
    assert len(list((tmp_path / "run/failed").iterdir())) == 1
    assert main(["--config", config]) == 1
    assert "holds a run already" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("name", ["dape_seesr", "dape_tiny"])
def test_recipes_can_be_read_and_their_degradations_drawn(name):
    from osediff_core.degrade import draw
    from training.dape.config import DapeConfig
    from training.run.settings import read_settings

    config = read_settings(DapeConfig, ROOT / f"training/configs/{name}.yaml")
    preset = config.data.degradation
    draw(str(ROOT / preset) if preset.endswith(".yaml") else preset, (64, 64), config.data.scale)
