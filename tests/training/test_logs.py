import json
import math
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from osediff_core.errors import OptionError
from training.run.errors import TrainingError
from training.run.logs import RunLog, read_facts, read_log

ROOT = Path(__file__).parents[2]


def write(folder, steps, start_step=0, loggers=()):
    run_log = RunLog(folder, loggers, start_step, {"seed": 1})
    for step in steps:
        run_log.log(step, {"loss": 1 / step})
    return run_log


def test_rows(tmp_path):
    run_log = write(tmp_path / "run", [1, 2])
    run_log.log(2, {"psnr_y": 20.5, "odd": float("inf")}, kind="validation")
    rows = read_log(tmp_path / "run" / "metrics.jsonl")  # not closed: every line is there already
    assert [(row["step"], row["kind"]) for row in rows] == [(1, "train"), (2, "train"), (2, "validation")]
    assert rows[1]["values"] == {"loss": 0.5}
    assert rows[2]["values"]["psnr_y"] == 20.5 and math.isnan(rows[2]["values"]["odd"])
    assert 0 <= rows[0]["seconds"] <= rows[2]["seconds"] < 60
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text  # JSON knows neither
    facts = read_facts(tmp_path / "run")
    assert facts["config"] == {"seed": 1} and facts["machine"]["torch"]
    run_log.close()


def test_resume_drops_what_comes_again_and_a_torn_line(tmp_path):
    write(tmp_path, range(1, 8)).close()
    path = tmp_path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["seconds"] = 100.0 * row["step"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "sec')
    identity = read_facts(tmp_path)["id"]
    write(tmp_path, [5, 6], start_step=4).close()
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["seconds"] for row in rows[:4]] == [100, 200, 300, 400]
    assert all(400 <= row["seconds"] < 460 for row in rows[4:])
    assert read_facts(tmp_path)["id"] == identity
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    write(tmp_path, [1]).close()
    assert [row["step"] for row in read_log(tmp_path)] == [1]


def test_survives_kill_9(tmp_path):
    code = (
        "import os, signal, pathlib, sys\nfrom training.run.logs import RunLog\n"
        "run_log = RunLog(pathlib.Path(sys.argv[1]), ())\n"
        "for step in range(1, 51):\n    run_log.log(step, {'loss': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_log(tmp_path)] == list(range(1, 51))


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path / "run", [1, 2, 3], loggers=("tensorboard",)).close()
    write(tmp_path / "run", [3], start_step=2, loggers=("tensorboard",)).close()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]


def test_tensorboard_keeps_the_sheet(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (8, 6), "red").save(tmp_path / "sheet.png")
    run_log = RunLog(tmp_path / "run")
    run_log.image(3, "validation", tmp_path / "sheet.png")
    run_log.close()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    (image,) = events.Images("validation")
    assert (image.step, image.width, image.height) == (3, 8, 6)


class FakeWandb(types.ModuleType):
    """Records what it is told; fails to start where `fault` is set."""

    def __init__(self, fault=None):
        super().__init__("wandb")
        self.calls, self.fault = [], fault

    def init(self, **options):
        if self.fault:
            raise RuntimeError(self.fault)
        self.calls.append(("init", options))
        return types.SimpleNamespace(
            log=lambda values: self.calls.append(("log", values)),
            define_metric=lambda *_args, **_options: None,
            finish=lambda: self.calls.append(("finish", None)),
        )

    def Image(self, path):
        return f"image {Path(path).name}"


def test_wandb(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write(tmp_path, [1]).close()
    assert not fake.calls  # not named, not touched
    for start_step in (0, 1):
        run_log = write(tmp_path, [start_step + 1], start_step, loggers=("wandb",))
        run_log.image(2, "validation", tmp_path / "s.png")
        run_log.close()
    first, again = (options for name, options in fake.calls if name == "init")
    assert first["id"] == again["id"] and first["resume"] == "allow"
    logged = [values for name, values in fake.calls if name == "log"]
    assert logged[0] == {"step": 1, "train/loss": 1.0}
    assert logged[1] == {"step": 2, "validation": "image s.png"}
    assert fake.calls[-1][0] == "finish"


def test_wandb_that_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("api_key not configured"))
    with pytest.raises(OptionError, match=r"api_key not configured.*WANDB_MODE=offline"):
        RunLog(tmp_path, ("wandb",))


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_loggers_that_are_not_installed(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OptionError, match=f"pip install {name}"):
        RunLog(tmp_path, (name,))


def test_unknown_logger(tmp_path):
    with pytest.raises(OptionError, match="tensorboard, wandb"):
        RunLog(tmp_path / "run", ("csv",))
    assert not (tmp_path / "run").exists()


def test_bad_files(tmp_path):
    with pytest.raises(TrainingError, match="cannot be read"):
        read_log(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(TrainingError, match="Line 1"):
        read_log(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        RunLog(tmp_path / "file", ())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(tmp_path):
    run_log = write(tmp_path, [1])
    run_log._file.close()
    run_log._file = open("/dev/full", "a", buffering=1)  # a disk that has become full
    with pytest.raises(TrainingError, match="No space left"):
        run_log.log(2, {"loss": 1.0})
