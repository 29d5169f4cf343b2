"""What a user gets wrong, or a machine: one sentence each, and nothing is lost."""

import errno
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from run_settings import write_settings
from safetensors import safe_open

from osediff_core.degrade import draw
from training.config import as_yaml, load_config
from training.run import checkpoints
from training.train import main


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    return folder


@pytest.fixture
def start(mini_base, picture_folder, tmp_path, caplog):
    """Run the command in this process: (exit code, last message)."""

    def run(**changes):
        config = {
            "output": str(tmp_path / "run"),
            "steps": 2,
            "batch": 1,
            "device": "cpu",
            "loggers": [],
            "save_every": 1,
            "data": {"sources": [{"path": str(picture_folder)}], "resolution": 32, "workers": 0},
            "model": {"base": str(mini_base)},
            "loss": {"perceptual": 0.0},
        }
        code = main(["--config", str(write_settings(tmp_path / "config.yaml", config, changes))])
        return code, (caplog.records[-1].getMessage() if caplog.records else "")

    return run


def assert_one_sentence(message, *words):
    assert "\n" not in message and len(message) < 700 and message.endswith((".", "?"))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(("changes", "code", "words"), [
    ({"data": {"sources": [{"path": "/nowhere/train.txt"}]}}, 1, ["/nowhere/train.txt", "cannot be read"]),
    ({"data": {"sources": [{"path": "/nowhere"}]}}, 1, ["no folder /nowhere"]),
    ({"data": {"sources": [{"path": "/nowhere/*.tar"}]}}, 1, ["No .tar file"]),
    ({"data": {"sources": []}}, 1, ["data.sources is empty"]),
    ({"data": {"degradation": "rain"}}, 1, ["rain"]),
    ({"data": {"captions": "telepathy"}}, 1, ["telepathy", "tagger:NAME"]),
    ({"data": {"captions": "tagger:ram"}}, 1, ["ram", "appearance"]),
    ({"data": {"resolution": 0}}, 1, ["resolution"]),
    ({"optim": {"learningrate": 1}}, 2, ["optim.learningrate", "did you mean optim.learning_rate?"]),
    ({"optim": {"learning_rate": "fast"}}, 2, ["optim.learning_rate", "'fast'"]),
    ({"model": {"regulariser": "vds"}}, 2, ["model.regulariser", "'vsd'"]),
    ({"model": {"base": "/nowhere/sd21"}}, 1, ["/nowhere/sd21"]),
    ({"model": {"start_from": "/nowhere/osediff.pkl"}}, 1, ["/nowhere/osediff.pkl"]),
    ({"model": {"timestep": 1000}}, 2, ["1000", "999"]),
    ({"steps": 0}, 2, ["steps is 0"]),
    ({"seed": -1}, 2, ["seed is -1", "2^63"]),
    ({"seed": 2**64}, 2, ["seed is", "2^63"]),
    ({"device": "banana"}, 2, ["device is 'banana'", "auto, cpu, cuda, mps or xpu"]),
    ({"device": "cuda:x"}, 2, ["device is 'cuda:x'"]),
    ({"device": "cuda:1"}, 2, ["device=cuda", "CUDA_VISIBLE_DEVICES=1"]),
    ({"data": {"scale": 0.5}}, 1, ["data.scale is 0.5"]),
    ({"data": {"scale": 0}, "model": {"base": "/nowhere"}}, 1, ["data.scale is 0"]),  # before the base is looked for
    ({"data": {"captions": "tagger:ram"}, "model": {"base": "/nowhere"}}, 1, ["ram", "appearance"]),
    ({"validation": {"metrics": ["beauty"]}}, 2, ["validation.metrics", "beauty"]),
    ({"data": {"scale": float("inf")}}, 2, ["data.scale", "finite"]),
    ({"optim": {"learning_rate": -1e-4}}, 2, ["optim.learning_rate is -0.0001", "above 0"]),
    ({"optim": {"learning_rate": 0}}, 2, ["optim.learning_rate is 0", "above 0"]),
    ({"optim": {"learning_rate": float("nan")}}, 2, ["optim.learning_rate is nan", "finite"]),
    ({"optim": {"regulariser_learning_rate": -1}}, 2, ["optim.regulariser_learning_rate", "above 0"]),
    ({"optim": {"conv_in_factor": -1}}, 2, ["optim.conv_in_factor", "0 or more"]),
    ({"optim": {"betas": [0.9, 2]}}, 2, ["optim.betas", "below 1"]),
    ({"optim": {"betas": [-0.1, 0.9]}}, 2, ["optim.betas", "at least 0"]),
    ({"optim": {"eps": 0}}, 2, ["optim.eps", "above 0"]),
    ({"optim": {"clip": 0}}, 2, ["optim.clip", "above 0"]),
    ({"optim": {"weight_decay": -1}}, 2, ["optim.weight_decay", "0 or more"]),
    ({"optim": {"warmup": 10}}, 2, ["optim.warmup", "constant_with_warmup"]),
    ({"optim": {"warmup": -1, "schedule": "cosine"}}, 2, ["optim.warmup", "0 or more"]),
    ({"optim": {"milestones": [-5, 3], "schedule": "multistep"}}, 2, ["optim.milestones", "from step 1"]),
    ({"optim": {"gamma": -0.5, "milestones": [1], "schedule": "multistep"}}, 2, ["optim.gamma", "above 0"]),
    ({"optim": {"regulariser_steps": 2}, "model": {"regulariser": "csd"}}, 2, ["regulariser_steps has no effect"]),
    ({"model": {"regulariser": "sds", "official": "mid"}}, 2, ["model.official has no effect", "sds"]),
    ({"loss": {"l2": -1.0}}, 2, ["loss.l2 is -1.0", "0 or more"]),
    ({"loss": {"guidance": float("nan")}}, 2, ["loss.guidance is nan", "finite"]),
    ({"loss": {"guidance": -7.5}}, 2, ["loss.guidance", "0 or more"]),
    ({"loss": {"l2": 0, "perceptual": 0, "regulariser": 0}}, 2, ["nothing to learn"]),
    ({"validation": {"distance": "taste"}}, 2, ["validation.distance", "taste"]),
    ({"validation": {"limit": 0}}, 2, ["validation.limit is 0"]),
    ({"model": {"base_dtype": "bf16"}}, 2, ["base_dtype", "precision"]),
    ({"resume": "/nowhere/step_00000001"}, 1, ["/nowhere/step_00000001", "no whole checkpoint"]),
    ({"validation": {"path": "/nowhere"}}, 1, ["/nowhere"]),
    ({"loss": {"perceptual_kind": "taste"}}, 2, ["loss.perceptual_kind", "taste"]),
])  # fmt: skip
def test_a_wrong_setting_stops_the_run_before_it_starts(changes, code, words, start, tmp_path):
    found, message = start(**changes)
    assert found == code, message
    assert_one_sentence(message, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "code", "words"), [
    ({"output": "/dev/null/run"}, 1, ["/dev/null/run cannot be written", "another output"]),
    ({"output": "/proc/run"}, 1, ["/proc/run cannot be written"]),
    ({"prompt_cache": "/dev/null/cache"}, 1, ["prompt cache /dev/null/cache cannot be written"]),
    ({"loggers": ["wandb"]}, 2, ["wandb is not installed", "leave it out of loggers"]),
    ({"validation": {"path": "/nowhere"}}, 1, ["no folder /nowhere to validate on"]),
    ({"validation": {"path": "PICTURES", "distance": "lpips-alex"}}, 2, ["alex", "torch hub's cache"]),
    ({"loss": {"perceptual": 1.0, "perceptual_kind": "lpips-vgg"}}, 2, ["vgg", "loss.perceptual_weights"]),
    ({"loss": {"teacher": 1.0, "teacher_model": "/nowhere.pth"}}, 2, ["/nowhere.pth"]),
    ({"loss": {"adversarial": 1.0, "adversarial_features": "/nowhere"}}, 2, ["/nowhere"]),
    ({"model": {"start_from": "/nowhere.pkl", "base": "/no-base"}}, 1, ["/nowhere.pkl"]),
    ({"push_to_hub": "no repository"}, 2, ["'no repository' is no repository", "owner/name"]),
])  # fmt: skip
def test_what_can_be_refused_is_before_the_base_is_read(
    changes, code, words, start, picture_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    for settings in changes.values():
        if isinstance(settings, dict) and settings.get("path") == "PICTURES":
            settings["path"] = str(picture_folder)
    found, message = start(**{"model": {"base": "/no-base"}, **changes})
    assert found == code, message
    assert_one_sentence(message, *words)
    assert "/no-base" not in message and not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_device_that_is_not_there(start, tmp_path):
    code, message = start(device="cuda")
    assert code == 2
    assert_one_sentence(message, "device is cuda", "give cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("told", [
    # what `accelerate launch --cpu --num_processes 2` says to the one process that it starts
    {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    {"SLURM_STEP_NUM_TASKS": "4"},
])  # fmt: skip
def test_a_process_that_is_alone_though_more_were_asked_for(told, start, tmp_path, monkeypatch):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    code, message = start()
    assert code == 1
    assert_one_sentence(message, "this one is alone", "torchrun --nproc_per_node")
    assert not (tmp_path / "run").exists()


def test_an_empty_folder(start, tmp_path):
    (tmp_path / "empty").mkdir()
    code, message = start(data={"sources": [{"path": str(tmp_path / "empty")}]})
    assert code == 1
    assert_one_sentence(message, "no picture", "empty")


def test_a_v_prediction_base(start, tmp_path):
    from mini_models.networks import write_mini_base

    code, message = start(model={"base": str(write_mini_base(tmp_path / "v", "v_prediction"))})
    assert code == 1
    assert_one_sentence(message, "v-prediction", "SD 2.1-base")


def test_a_full_disk_leaves_the_checkpoint_before(start, tmp_path, monkeypatch):
    write = checkpoints.write_bytes_atomically

    def full(path, data):
        if "step_00000002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoints, "write_bytes_atomically", full)
    code, message = start()
    assert code == 1
    assert_one_sentence(message, "step 2", "No space left", "step_00000001", "resume=latest")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000001"]
    monkeypatch.undo()
    assert start(resume="latest")[0] == 0
    assert (tmp_path / "run/checkpoints/step_00000002/state.json").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(start, tmp_path):
    code, message = start(loss={"perceptual": 0.0, "l2": 1e38})
    assert code == 1
    assert_one_sentence(message, "Step 1", "not finite", "one.png")
    (saved,) = (tmp_path / "run/failed").iterdir()
    with safe_open(saved, "pt") as file:
        assert file.metadata()["names"].endswith("one.png") and file.get_tensor("lq").shape == (1, 3, 32, 32)


def test_another_rank_cannot_be_resumed(start):
    assert start()[0] == 0
    code, message = start(resume="latest", steps=3, model={"rank_unet": 8})
    assert code == 1
    assert_one_sentence(message, "another base, rank or regulariser", "config.yaml")


def test_a_damaged_checkpoint(start, tmp_path):
    assert start()[0] == 0
    state = tmp_path / "run/checkpoints/step_00000002/state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    code, message = start(resume="latest", steps=3)
    assert code == 1
    assert_one_sentence(message, "step_00000002", "no whole checkpoint")
    earlier = str(tmp_path / "run/checkpoints/step_00000001")
    assert start(resume=earlier, steps=3)[0] == 0


def test_what_a_run_saves_is_what_it_was_told(start, tmp_path):
    assert start(seed=77)[0] == 0
    saved = tmp_path / "run/checkpoints/step_00000002/config.yaml"
    config = load_config(saved, ["steps=9", "optim.betas=[0.5, 0.9]"])
    assert (config.seed, config.steps, config.optim.betas) == (77, 9, (0.5, 0.9))
    assert as_yaml(load_config(saved)) == saved.read_text()
    state = json.loads(saved.with_name("state.json").read_text())
    assert state["step"] == 2


def test_every_recipe_is_a_configuration():
    from pathlib import Path

    configs = Path(__file__).parents[2] / "training/configs"
    recipes = [path for path in sorted(configs.glob("*.yaml")) if not path.stem.startswith("dape_")]
    assert {path.stem for path in recipes} >= {"osediff_sd21", "osediff_face", "osediff_24gb", "tiny"}
    for path in recipes:
        load_config(path)
    for path in (configs / "degradations").glob("*.yaml"):
        draw(str(path), (64, 64), 4.0)


def test_the_recipes_are_the_official_ones():
    from pathlib import Path

    configs = Path(__file__).parents[2] / "training/configs"
    sd21, face = (load_config(configs / f"osediff_{name}.yaml") for name in ("sd21", "face"))
    assert face.loss.negative_prompt == (
        "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
        "lowres, over-smooth"
    )
    assert (face.data.picture, face.data.rotate, face.data.degradation) == ("whole", True, "codeformer")
    assert (sd21.data.picture, sd21.data.rotate, sd21.data.degradation) == ("crop", False, "realesrgan")
    face.loss.negative_prompt = sd21.loss.negative_prompt
    assert (face.loss, face.optim, face.model, face.batch) == (sd21.loss, sd21.optim, sd21.model, sd21.batch)
    assert {
        path.stem for path in configs.glob("osediff_*.yaml") if load_config(path).validation.path is None
    } == set()
    # the prompt is of what is trained on, never of the whole picture
    assert face.data.captions == sd21.data.captions == "tagger:ram_swin_large_14m.pth"
