"""The trainer as a command: kill it, resume it, split it over processes, give it what it cannot use."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_settings import soft_pictures, write_settings
from safetensors.torch import load_file

from training.train import main

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return soft_pictures(tmp_path_factory.mktemp("pictures"), 5, (15, 12), (90, 72))


@pytest.fixture
def make_config(mini_base, pictures, tmp_path):
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
                "sources": [{"path": str(pictures)}],
                "resolution": 32,
                "degradation": "light",
                "captions": "text:a wall",
                "prompt_dropout": 0.3,
                "workers": 0,
            },
            "model": {"base": str(mini_base)},
            "loss": {"perceptual": 0.0},
            "optim": {"ema": 0.9, "learning_rate": 1e-3, "schedule": "cosine"},
            "validation": {"path": str(pictures), "every": 3, "limit": 2, "size": 64},
        }
        return write_settings(tmp_path / f"{name}.yaml", config, changes)

    return make


def start(config, **options):
    """The command in a process of its own, as it is killed or stopped here."""
    line = [sys.executable, str(ROOT / "training/train.py"), "--config", str(config)]
    return subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


def trained(folder, step=STEPS):
    return load_file(Path(folder) / "checkpoints" / f"step_{step:08d}" / "state.safetensors")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(make_config, tmp_path, caplog, one_thread):
    assert main(["--config", str(make_config("whole", export_lora=["diffusers", "comfyui"]))]) == 0
    config = make_config("killed")
    process = start(config, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed/metrics.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 3, ' in log.read_text()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "killed/weights.safetensors").exists()
    assert main(["--config", str(config), "resume=latest"]) == 0
    assert_same(trained(tmp_path / "killed"), trained(tmp_path / "whole"))
    assert_same(
        load_file(tmp_path / "killed/weights.safetensors"), load_file(tmp_path / "whole/weights.safetensors")
    )
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))
    assert {path.name for path in (tmp_path / "whole").iterdir()} >= {
        "report.html",
        "weights.pkl",
        "config.yaml",
        "lora_diffusers.safetensors",
        "lora_comfyui.safetensors",
        "vae",
    }
    kept = sorted(path.name for path in (tmp_path / "whole/checkpoints").iterdir())
    assert (
        "step_00000006" in kept and "step_00000004" in kept and not any(name.startswith(".") for name in kept)
    )
    assert main(["--config", str(config)]) == 1
    assert "holds a run already" in caplog.text and "Traceback" not in caplog.text


@pytest.mark.slow
def test_ctrl_c_saves_first(make_config, tmp_path):
    config = make_config("stopped", steps=500, data={"workers": 1})
    process = start(config, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tmp_path / "stopped/metrics.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 2, ' in log.read_text()):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the data's worker gets it, too
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in errors
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert (tmp_path / f"stopped/checkpoints/step_{last:08d}/state.json").exists()


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(make_config, tmp_path):
    for config in (
        make_config("one", steps=2, batch=4, validation={"limit": 3}),
        make_config("accumulated", steps=2, batch=2, optim={"accumulate": 2}, validation={"limit": 3}),
    ):
        assert main(["--config", str(config)]) == 0
    configs = [
        make_config(name, steps=2, batch=2, model=model, validation={"limit": 3})
        for name, model in (("two", {}), ("split", {"shard_base": True, "gradient_checkpointing": True}))
    ]
    program = tmp_path / "both.py"  # one after the other in the same two processes, which take long to start
    program.write_text(
        "import sys; from training.train import main\n"
        "sys.exit(any(main(['--config', config]) for config in sys.argv[1:]))\n"
    )
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    found = subprocess.run(
        [*launcher, program, *configs],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr
    assert re.search(r"each of 2 processes keeps 5\d % of the frozen UNet", found.stderr)
    names = ("one", "two", "split")  # three pairs: one process of two has two of them
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in names]
    first, *others = ([json.loads(row) for row in rows if '"validation"' in row] for rows in logs)
    assert [row["step"] for row in first] == [0, 2]
    for rows in others:
        # before the first step the networks are the same to the bit
        assert rows[0]["values"] == pytest.approx(first[0]["values"], rel=1e-6)
        assert rows[1]["values"] == pytest.approx(first[1]["values"], rel=1e-3)
    sheets = [(tmp_path / name / "sheets/step_00000000.png").read_bytes() for name in names]
    assert sheets[0] == sheets[1] == sheets[2]
    expected = trained(tmp_path / "one", 2)
    for name in ("accumulated", "two", "split"):
        found = trained(tmp_path / name, 2)
        for key, tensor in expected.items():
            if ".exp_avg" not in key and ".step" not in key:
                # Adam's first steps are nearly sign(gradient), so rounding may turn where it is about 0
                error = (found[key] - tensor).abs() / 1e-3
                assert float(error.flatten().quantile(0.98)) < 0.02, (name, key)
            elif key.endswith(".exp_avg"):
                assert float((found[key] - tensor).abs().max()) <= 1e-3 * float(tensor.abs().max()) + 1e-7, (
                    name,
                    key,
                )
