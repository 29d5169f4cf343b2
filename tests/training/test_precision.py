"""Half precision: how far it is off at the last timestep, and runs in fp16, whose loss scale is part of their state."""

import json

import pytest
import torch
from run_settings import soft_pictures, write_settings
from safetensors.torch import load_file

from benchmarks.precision import errors
from training.config import load_config
from training.run.config import AdamWConfig
from training.run.updater import Updater
from training.train import main

STEPS = 6  # of which the first few overflow


def test_fp16_with_a_loss_scale_is_several_times_nearer_than_bf16(mini_base):
    found = errors(mini_base, None, 32)
    for base_dtype in ("fp32", "bf16"):
        x0, image, _, gradient = found[base_dtype, "bf16"]
        in_fp16 = found["fp16" if base_dtype == "bf16" else "fp32", "fp16"]
        assert in_fp16[0] < x0 / 4 and in_fp16[1] < image / 4 and in_fp16[3] < gradient / 3


@pytest.fixture
def train(mini_base, tmp_path, one_thread):
    (tmp_path / "pictures").mkdir()
    pictures = soft_pictures(tmp_path / "pictures", 2, (12, 9), (48, 36))

    def run(name, *settings, **changes):
        config = {
            "output": str(tmp_path / name),
            "steps": STEPS,
            "batch": 1,
            "precision": "fp16",
            "device": "cpu",
            "loggers": [],
            "save_every": 1,
            "log_every": 1,
            "keep": 9,
            "data": {"sources": [{"path": str(pictures)}], "resolution": 32, "degradation": "light", "workers": 0},
            "model": {"base": str(mini_base), "base_dtype": "fp16"},
            "loss": {"perceptual": 0.0},
            "optim": {"learning_rate": 1e-3, "ema": 0.9},
        }  # fmt: skip
        path = write_settings(tmp_path / f"{name}.yaml", config, changes)
        assert main(["--config", str(path), *settings]) == 0
        return tmp_path / name

    return run


def checkpoint(folder, step):
    path = folder / f"checkpoints/step_{step:08d}"
    return load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text())


def test_an_overflow_skips_an_update_is_counted_and_logged_and_a_resumed_run_is_the_same(train):
    whole = train("whole")
    tensors, state = checkpoint(whole, STEPS)
    assert state["generator"]["skipped"] >= 1 and state["generator"]["scaler"]["scale"] < 2.0**16
    before, _ = checkpoint(whole, 1)
    fresh = [name for name in before if name.startswith("generator/parameter") and "lora_B" in name]
    assert fresh and not any(before[name].any() for name in fresh)  # nothing learnt from the overflow
    assert any(tensors[name].any() for name in fresh)  # but later
    rows = [json.loads(line)["values"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["generator_overflows"] for row in rows][-1] == state["generator"]["skipped"]
    assert rows[-1]["generator_loss_scale"] == state["generator"]["scaler"]["scale"]
    assert rows[-1]["regulariser_overflows"] == state["regulariser"]["skipped"]

    train("parts", steps=3)
    parts = train("parts", "resume=latest")
    again, state_again = checkpoint(parts, STEPS)
    assert state_again == state | {"best": state_again["best"]}
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_an_overflow_moves_neither_parameters_nor_average_but_the_schedule():
    parameter = torch.nn.Parameter(torch.ones(2))
    config = AdamWConfig(schedule="linear", ema=0.9)
    updater = Updater({"weight": parameter}, 1e-1, config, 10, ema=0.9, scale_loss=True)
    updater.backward((parameter * float("inf")).sum())
    assert not torch.isfinite(updater.step()) and not updater.broken
    assert torch.equal(parameter.detach(), torch.ones(2)) and torch.equal(
        updater.average["weight"], torch.ones(2)
    )
    assert updater.figures() == {"loss_scale": 2.0**15, "overflows": 1.0}
    assert updater.learning_rate == pytest.approx(0.09)
    updater.backward(parameter.sum())
    updater.step()
    assert float(parameter.detach()[0]) < 1 and updater.figures()["overflows"] == 1.0


def test_a_loss_that_is_nan_at_any_scale_breaks_the_run():
    parameter = torch.nn.Parameter(torch.ones(2))
    updater = Updater({"weight": parameter}, 1e-1, AdamWConfig(), 10, scale_loss=True)
    for _ in range(17):
        assert not updater.broken
        updater.backward((parameter * float("nan")).sum())
        updater.step()
    assert updater.broken


@pytest.mark.parametrize("name", ["sd21", "face", "24gb"])
def test_recipes_of_sd21_are_in_fp16(name):
    config = load_config(f"training/configs/osediff_{name}.yaml")
    assert (config.precision, config.model.base_dtype) == ("fp16", "fp16")
