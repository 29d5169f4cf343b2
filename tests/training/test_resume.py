"""Going on with a run after something was changed: another batch, other settings, an earlier checkpoint."""

import json
import shutil

import pytest
import torch
from run_settings import soft_pictures, write_settings
from safetensors.torch import load_file

from training.dape.config import DapeConfig
from training.run.changes import changes_since
from training.run.config import AdamWConfig
from training.run.history import gone_back_to
from training.run.settings import parse_settings
from training.run.updater import Updater
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
            "model": {"base": str(mini_base), "regulariser": "none"},  # a run with one is killed in test_train.py
            "loss": {"perceptual": 0.0},
            "optim": {"learning_rate": 1e-3},
        }  # fmt: skip
        caplog.clear()
        code = main(["--config", str(write_settings(tmp_path / "config.yaml", config, changes))])
        return code, (caplog.records[-1].getMessage() if caplog.records else "")

    return run


VSD = {"model": {"regulariser": "vsd"}}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Where the first run of `begun` lies, once there was one."""
    return tmp_path_factory.mktemp("begun") / "run"


@pytest.fixture
def begun(train, two_steps, tmp_path):
    """A run of two steps with a regulariser, trained once and copied."""
    if two_steps.exists():
        shutil.copytree(two_steps, tmp_path / "run")
    else:
        assert train(**VSD)[0] == 0
        shutil.copytree(tmp_path / "run", two_steps)


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
    found = lambda self, step: {"distance": values.pop(0)}  # noqa: E731
    monkeypatch.setattr("training.validate.RestoredPairs.run", found)
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


# ---- changed settings ----


def said(caplog):
    return [text for text in caplog.messages if text.startswith("changed from here on")]


def train_rows(folder):
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["values"] for row in rows if row["kind"] == "train"}


def groups_of(folder, updater="generator"):
    return state_of(folder)[updater]["groups"]


def test_changed_settings_of_the_optimiser_are_taken_and_said(begun, train, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    optim = {"learning_rate": 1e-7, "weight_decay": 0.5, "betas": [0.5, 0.8], "eps": 1e-4, "clip": 0.25}
    optim["regulariser_learning_rate"] = 1e-6
    assert train(steps=3, resume="latest", optim=optim, **VSD)[0] == 0
    assert said(caplog) == [
        "changed from here on: steps: 2 -> 3",
        "changed from here on: optim.learning_rate: 0.001 -> 1.0e-07",
        "changed from here on: optim.betas: [0.9, 0.999] -> [0.5, 0.8]",
        "changed from here on: optim.weight_decay: 0.01 -> 0.5",
        "changed from here on: optim.eps: 1.0e-08 -> 0.0001",
        "changed from here on: optim.clip: 1.0 -> 0.25",
        "changed from here on: optim.regulariser_learning_rate: 5.0e-05 -> 1.0e-06",
    ]
    assert train_rows(tmp_path / "run")[3]["learning_rate"] == 1e-7
    for group in groups_of(checkpoint(3)):  # LoRA, and conv_in's own
        assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (
            1e-7,
            [0.5, 0.8],
            0.5,
            1e-4,
        )
    assert groups_of(checkpoint(3), "regulariser")[0]["lr"] == 1e-6
    before, after = (load_file(checkpoint(step) / "state.safetensors") for step in (2, 3))
    moved = [
        (after[key] - value).abs().max() for key, value in before.items() if "generator/parameter" in key
    ]
    assert 0 < max(moved) < 1e-5


def test_a_changed_schedule_acts_as_if_it_had_been_so_from_the_start(train, checkpoint, tmp_path):
    optim = {"schedule": "multistep", "milestones": [3], "gamma": 0.1, "regulariser_steps": 2}
    assert train(optim={"schedule": "linear"}, **VSD)[0] == 0
    assert train(steps=4, resume="latest", optim=optim, **VSD)[0] == 0
    assert train(steps=4, output=str(tmp_path / "whole"), optim=optim, **VSD)[0] == 0
    for updater in ("generator", "regulariser"):
        found = state_of(checkpoint(4))[updater]["schedule"]
        assert found == state_of(tmp_path / "whole/checkpoints/step_00000004")[updater]["schedule"]
    rates = [values["learning_rate"] for values in train_rows(tmp_path / "run").values()]
    assert rates[2:] == pytest.approx([1e-4, 1e-4])


def test_an_average_can_be_taken_up_and_left(train, checkpoint, caplog):
    caplog.set_level("INFO")
    assert train()[0] == 0 and not said(caplog)
    assert train(steps=3, resume="latest", optim={"ema": 0.9})[0] == 0
    state = load_file(checkpoint(3) / "state.safetensors")
    assert any("average" in key for key in state)
    assert train(steps=4, resume="latest")[0] == 0
    assert not any("average" in key for key in load_file(checkpoint(4) / "state.safetensors"))


@pytest.mark.parametrize(("changes", "words"), [
    ({"model": {"rank_vae": 8}}, ["another base, rank or regulariser", "model.rank_vae: 4 -> 8"]),
    ({"model": {"regulariser": "csd"}}, ["model.regulariser: vsd -> csd"]),
    ({"model": {"timestep": 500}}, ["model.timestep: null -> 500"]),
    ({"seed": 5}, ["another seed", "seed: 123 -> 5"]),
    ({"data": {"resolution": 40}}, ["data.resolution: 32 -> 40"]),
    ({"steps": 1}, ["beyond the 1 steps"]),
])  # fmt: skip
def test_what_cannot_change_on_the_way_is_refused_in_words(changes, words, begun, train, tmp_path):
    before = (tmp_path / "run/config.yaml").read_text(), (tmp_path / "run/metrics.jsonl").read_text()
    changes = {**changes, "model": {**VSD["model"], **changes.get("model", {})}}
    code, message = train(resume="latest", **({"steps": 3} | changes))
    assert code == 1 and message.endswith(".") and "\n" not in message
    for word in words:
        assert word in message, message
    assert before == (
        (tmp_path / "run/config.yaml").read_text(),
        (tmp_path / "run/metrics.jsonl").read_text(),
    )


def test_figures_of_another_validation_are_not_compared(train, figures, tmp_path):
    figures += [0.9, 0.1, 0.7, 0.6]
    assert train(validation={"every": 1})[0] == 0
    assert train(steps=3, keep=1, resume="latest", validation={"every": 1, "size": 64})[0] == 0
    assert state_of(tmp_path / "run/checkpoints/step_00000003")["best"] == {"step": 3, "value": 0.6}


def test_settings_that_another_version_did_not_know_are_no_change():
    config = parse_settings(DapeConfig, {"output": "x", "data": {"sources": [{"path": "y"}]}})
    assert changes_since({"output": "elsewhere", "gone": 3, "optim": {"gone": 1}}, config) == []
    (change,) = changes_since({"loss": {"logits": 0.5}}, config)
    assert change.shown == ("loss.logits", "0.5 -> 1.0")


# ---- an earlier checkpoint ----


def logged_steps(folder, kind="train"):
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if row["kind"] == kind]


def test_going_back_leaves_one_line_of_history(train, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    run = tmp_path / "run"
    assert train(steps=6, save_every=2, keep=9)[0] == 0
    abandoned = load_file(checkpoint(4) / "state.safetensors")
    assert train(steps=4, keep=1, resume=str(checkpoint(2)), optim={"learning_rate": 1e-4})[0] == 0
    left = run / "abandoned/1_after_step_00000002"
    assert any(str(left) in text and "back to step 2" in text for text in caplog.messages)
    assert steps_kept(left) == [4, 6] and logged_steps(left) == [1, 2, 3, 4, 5, 6]
    assert (left / "weights.safetensors").exists() and (left / "report.html").exists()
    assert steps_kept(run) == [2, 4] and logged_steps(run) == [1, 2, 3, 4]
    assert train(steps=7, keep=1, resume="latest", optim={"learning_rate": 1e-4})[0] == 0
    assert steps_kept(run) == [2, 7] and logged_steps(run) == [1, 2, 3, 4, 5, 6, 7]
    assert load_file(left / "checkpoints/step_00000004/state.safetensors").keys() == abandoned.keys()
    rates = [values["learning_rate"] for values in train_rows(run).values()]
    assert rates == pytest.approx([1e-3] * 2 + [1e-4] * 5)


def test_going_back_gives_the_very_same_run_again(train, checkpoint, tmp_path):
    assert train(steps=4, optim={"ema": 0.9})[0] == 0
    first = load_file(checkpoint(4) / "state.safetensors")
    assert train(steps=4, resume=str(checkpoint(3)), optim={"ema": 0.9})[0] == 0
    again = load_file(checkpoint(4) / "state.safetensors")
    assert all(torch.equal(again[key], value) for key, value in first.items())
    assert logged_steps(tmp_path / "run") == [1, 2, 3, 4]


def test_going_back_twice_and_the_best_step(train, checkpoint, figures, tmp_path):
    run, options = tmp_path / "run", {"validation": {"every": 1}, "save_every": 9, "keep": 1}
    figures += [0.9, 0.8, 0.7, 0.6, 0.5]
    assert train(steps=4, validation={"every": 1}, keep=9)[0] == 0
    figures += [0.1]
    assert train(steps=4, resume=str(checkpoint(3)), **options)[0] == 0
    assert steps_kept(run) == [3, 4] and state_of(checkpoint(4))["best"] == {"step": 4, "value": 0.1}
    assert not (run / "abandoned/1_after_step_00000003/checkpoints/step_00000002").exists()
    figures += [0.8]
    assert train(steps=4, resume=str(checkpoint(3)), **options)[0] == 0
    assert steps_kept(run) == [3, 4] and state_of(checkpoint(4))["best"] == {"step": 3, "value": 0.6}
    assert logged_steps(run, "validation") == [0, 1, 2, 3, 4]
    assert len(list((run / "abandoned").iterdir())) == 2


def test_a_step_gone_back_to_on_a_line_that_was_left_is_not_kept(tmp_path):
    for name in ("1_after_step_00000004", "2_after_step_00000002", "3_after_step_00000006", "notes"):
        (tmp_path / "abandoned" / name).mkdir(parents=True)
    assert gone_back_to(tmp_path) == {2, 6}


def test_a_loss_scale_starts_anew_where_the_checkpoint_had_none():
    def updater():
        return Updater({"weight": torch.nn.Parameter(torch.ones(2))}, 1e-3, AdamWConfig(), steps=5)

    tensors, values = updater().state()
    scaled = updater()
    scaled.scaler = torch.amp.GradScaler("cpu")  # as fp16 has it on a card
    scaled.load(tensors, values, 0)
    assert scaled.scaler.get_scale() == 2.0**16
    updater().load(*scaled.state(), 0)  # and back to none
