"""Going on with a run after something was changed: another batch, other settings, an earlier checkpoint."""

import json
import shutil

import pytest
from run_settings import soft_pictures, write_settings

from training.train import main


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return soft_pictures(tmp_path_factory.mktemp("pictures"), 5, (12, 9), (48, 36))


@pytest.fixture
def train(mini_base, pictures, tmp_path, caplog, one_thread):
    """Run the command in this process: (exit code, last message)."""

    def run(**changes):
        config = {
            "output": str(tmp_path / "run"),
            "steps": 2,
            "batch": 1,
            "device": "cpu",
            "loggers": [],
            "save_every": 1,
            "log_every": 1,
            "data": {"sources": [{"path": str(pictures)}], "resolution": 32, "degradation": "light", "workers": 0},
            "model": {"base": str(mini_base)},
            "loss": {"perceptual": 0.0},
            "optim": {"learning_rate": 1e-3},
        }  # fmt: skip
        caplog.clear()
        code = main(["--config", str(write_settings(tmp_path / "config.yaml", config, changes))])
        return code, (caplog.records[-1].getMessage() if caplog.records else "")

    return run


@pytest.fixture
def checkpoint(tmp_path):
    """The folder of a step's checkpoint in the run."""
    return lambda step: tmp_path / f"run/checkpoints/step_{step:08d}"


def state_of(folder):
    return json.loads((folder / "state.json").read_text())


def samples(folder):
    (state,) = state_of(folder)["data"]
    return state["samples"]


# ---- the position in the data ----


def test_the_data_go_on_with_the_next_sample_whatever_the_batch_was(train, checkpoint):
    assert train(batch=2, optim={"accumulate": 2})[0] == 0
    assert samples(checkpoint(2)) == 8
    assert train(steps=3, batch=3, resume="latest")[0] == 0
    assert samples(checkpoint(3)) == 11


def test_a_checkpoint_of_two_processes_that_counted_batches_goes_on_in_one(train, checkpoint):
    assert train(batch=2)[0] == 0
    path = checkpoint(2) / "state.json"
    state = json.loads(path.read_text())
    (data,) = state["data"]
    old = {"batches": 2, "streams": {}, "lengths": data["lengths"]}
    path.write_text(json.dumps(state | {"data": [old, old]}))
    assert train(steps=3, batch=1, resume="latest")[0] == 0
    assert samples(checkpoint(3)) == 2 * 2 * 2 + 1


# ---- the best step ----


@pytest.fixture
def figures(monkeypatch):
    """Validation finds these values of the distance, one after the other."""
    values = []
    found = lambda self: {"distance": values.pop(0)}  # noqa: E731
    monkeypatch.setattr("training.train.Trainer.validate", found)
    return values


def steps_kept(folder):
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(("values", "best"), [([0.9, 0.5, 0.7, 0.6, 0.8], 1), ([0.5, 0.6, 0.7, 0.8, 0.9], 0)])
def test_the_best_step_is_kept_also_where_no_checkpoint_was_due(values, best, train, figures, tmp_path):
    figures += values
    options = {"save_every": 4, "keep": 1, "validation": {"every": 1}}
    assert train(steps=4, **options)[0] == 0
    assert steps_kept(tmp_path / "run") == [best, 4]
    figures += [0.8, 0.4, 0.7]
    assert train(steps=7, resume="latest", **options)[0] == 0
    assert steps_kept(tmp_path / "run") == [6, 7]


def test_a_best_step_that_is_no_longer_there_is_sought_anew(train, figures, checkpoint, tmp_path):
    figures += [0.9, 0.5, 0.7]
    assert train(validation={"every": 1})[0] == 0
    shutil.rmtree(checkpoint(1))
    figures += [0.8, 0.85, 0.9]
    assert train(steps=5, keep=1, validation={"every": 1}, resume="latest")[0] == 0
    assert steps_kept(tmp_path / "run") == [3, 5]
