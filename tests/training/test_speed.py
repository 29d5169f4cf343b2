"""Switches of speed: each gives the run that there is without it, but for rounding."""

import json

import pytest
import torch
from run_settings import soft_pictures, write_settings
from safetensors.torch import load_file

from training.data.pairs import Made
from training.run.config import AdamWConfig
from training.run.updater import Updater
from training.train import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return soft_pictures(tmp_path_factory.mktemp("pictures"), 2, (12, 9), (48, 36))


@pytest.fixture
def train(mini_base, pictures, tmp_path, caplog, one_thread):
    """(name, changes) -> exit code, values of the rows, trained tensors."""

    def run(name, **changes):
        config = {
            "output": str(tmp_path / name),
            "steps": 2,
            "batch": 1,
            "device": "cpu",
            "loggers": [],
            "log_every": 1,
            "data": {"sources": [{"path": str(pictures)}], "resolution": 32, "degradation": "light", "workers": 0},
            "model": {"base": str(mini_base)},
            "loss": {"perceptual_kind": "efficientnet-lite0", "perceptual": 0.1},
            "optim": {"learning_rate": 1e-3},
        }  # fmt: skip
        path = write_settings(tmp_path / f"{name}.yaml", config, changes)
        if main(["--config", str(path)]):
            return caplog.records[-1].getMessage(), None
        rows = [
            json.loads(line)["values"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        return rows, load_file(tmp_path / name / "weights.safetensors")

    return run


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"speed": {"compile": "aot_eager"}, "loss": {"perceptual": 0.0}},
    {"speed": {"channels_last": True, "tf32": True}, "optim": {"fused": True}},
], ids=["compile", "layout and optimiser"])  # fmt: skip
def test_a_switch_changes_nothing_but_rounding(changes, train):
    before = torch.get_float32_matmul_precision()
    try:
        rows, weights = train("switched", **changes)
        expected, plain = train("plain", loss=changes.get("loss", {}))
    finally:
        torch.set_float32_matmul_precision(before)
    for name in expected[0].keys() & {"loss", "l2", "perceptual", "diffusion"}:
        # the CPU's group norm of channels-last tensors is off by up to 7e-4
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=3e-2), name
    moved = {name: (weights[name] - plain[name]).abs().median() for name in plain}
    assert max(moved.values()) < 5e-4  # half of a step's size at most


def test_8_bit_moments_without_their_package(train, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    message, _ = train("run", optim={"kind": "adamw8bit"})
    assert "pip install bitsandbytes" in message and message.endswith(".") and not (tmp_path / "run").exists()
    message, _ = train("run", optim={"kind": "adamw8bit", "fused": True})
    assert "optim.fused has no effect" in message


def test_a_fused_updater_goes_on_where_it_was():
    def updater():
        return Updater({"w": torch.nn.Parameter(torch.ones(3))}, 1e-2, AdamWConfig(fused=True), 9)

    def step(one):
        one.backward((one.parameters["w"] ** 3).sum())
        one.step()

    whole, parts = updater(), updater()
    step(whole), step(whole), step(parts)
    tensors, values = parts.state()
    again = updater()
    again.load({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(values)), 1)
    step(again)
    assert torch.equal(again.parameters["w"], whole.parameters["w"])


def test_what_an_optimiser_keeps_beside_tensors_is_kept():
    updater = Updater({"w": torch.nn.Parameter(torch.ones(3))}, 1e-2, AdamWConfig(), 9)
    updater.backward(updater.parameters["w"].sum())
    updater.step()
    updater.optimizer.state[updater.parameters["w"]]["blocks"] = 7  # as bitsandbytes' step is
    tensors, values = updater.state()
    updater.load(tensors, json.loads(json.dumps(values)), 1)
    assert updater.optimizer.state[updater.parameters["w"]]["blocks"] == 7


def test_a_batch_can_be_pinned():
    made = Made(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), [""], ["a"])
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU to pin memory for")
    assert made.pin_memory().hq.is_pinned()
