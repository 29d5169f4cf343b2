"""One step against the official code's numbers (golden/train_*.npz), within the limits of its specification."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import osediff_core
from training.config import LossConfig, ModelConfig, OptimConfig
from training.draws import Draws
from training.networks import build_networks
from training.run.updater import Updater
from training.steps import GeneratorStep, RegulariserStep

CASES = ("train_official", "train_all_adapters", "train_mode_all_adapters")


@pytest.fixture(scope="module")
def golden_models(reference_dir):
    sys.path.insert(0, str(reference_dir / "golden"))
    models = pytest.importorskip("train_golden_models")
    yield models
    sys.path.remove(str(reference_dir / "golden"))


@pytest.fixture(scope="module")
def golden_base(golden_models, tmp_path_factory):
    """The reference's mini base as a diffusers folder."""
    import json

    folder = tmp_path_factory.mktemp("golden") / "base"
    golden_models.build_unet().save_pretrained(folder / "unet")
    golden_models.build_vae().save_pretrained(folder / "vae")
    golden_models.build_text_encoder().save_pretrained(folder / "text_encoder")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(golden_models.SCHED))
    packaged = Path(osediff_core.__file__).parent / "backends/sd21_base/tokenizer"
    shutil.copytree(packaged, folder / "tokenizer")
    return folder


def official_name(name):
    return name.replace("regulariser_", "default_").removeprefix("unet/")


@torch.no_grad()
def networks_of(case, base, models, **options):
    official = "mid" if case == "train_official" else None
    networks = build_networks(ModelConfig(base=str(base), official=official, **options), torch.device("cpu"))
    for name, parameter in networks.generator_parameters.items():
        if ".lora_" in name:
            key = "gen." + name
            parameter.copy_(torch.from_numpy(models.tensor(key, parameter.shape)))
    for name, parameter in networks.base.unet.module.named_parameters():
        if ".lora_" in name and ".regulariser_" in name:
            key = "reg.unet_update/" + official_name(name)
            parameter.copy_(torch.from_numpy(models.tensor(key, parameter.shape)))
    return networks


def relative(found, expected):
    found = found.detach().numpy() if torch.is_tensor(found) else np.asarray(found)
    return float(np.abs(found - expected).max() / (np.abs(expected).max() + 1e-30))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_official_one(case, checkpointing, golden_base, golden_models, reference_dir):
    path = reference_dir / "golden" / f"{case}.npz"
    if not path.exists():
        pytest.skip(f"the reference folder has no {path.name}")
    golden = np.load(path)
    value = {key: torch.from_numpy(golden[key]) for key in golden.files if golden[key].dtype.kind in "fi"}
    networks = networks_of(case, golden_base, golden_models, gradient_checkpointing=checkpointing)
    step = GeneratorStep(networks, LossConfig(perceptual=0.0), "vsd", None)
    posterior = value.get("posterior_noise") if "mode" not in case else None
    draws = Draws(value["vsd_noise"], value["vsd_timesteps"], posterior)
    out = step(value["lq"], value["hq"], value["prompt_embeds"], value["neg_prompt_embeds"], draws)
    assert relative(out["latents"], golden["x_denoised"]) <= 1e-4
    assert relative(out["image"], golden["image"]) <= 1e-4
    assert relative(out["l2"], golden["loss_l2"]) <= 1e-5
    assert relative(out["regulariser"], golden["loss_vsd"]) <= 1e-5

    updater = Updater(networks.generator_parameters, 5e-5, OptimConfig(), 1)
    updater.backward(out["loss"])
    parameters = networks.generator_parameters
    assert set(parameters) == {str(name) for name in golden["gen_names"]}
    assert not any(p.grad is not None for p in networks.regulariser_parameters.values())
    norms = golden["gen_gradnorms"]
    floor = 1e-6 * norms.max()  # a 1x1 self-attention's q and k have no gradient but rounding noise
    for name, expected in zip(golden["gen_names"], norms, strict=True):
        assert (
            abs(float(parameters[str(name)].grad.norm()) - expected) <= 1e-3 * (expected + floor) + floor
        ), name
    for key in golden.files:
        if key.startswith("g/"):
            assert relative(parameters[key[2:]].grad, golden[key]) <= 1e-3, key
    before = {key[3:]: golden[key] for key in golden.files if key.startswith("p0/")}
    for name, expected in before.items():
        assert relative(parameters[name], expected) <= 1e-6, name
    norm = updater.step()
    assert relative(norm, golden["clip_total_norm_unique"]) <= 1e-3
    for key in golden.files:
        if key.startswith("p1_unique/"):
            name = key.removeprefix("p1_unique/")
            error = np.abs(parameters[name].detach().numpy() - golden[key]) / 5e-5
            assert np.percentile(error, 99) <= 1e-2, name

    regulariser = RegulariserStep(networks, LossConfig(), "vsd")
    loss = regulariser(
        out["latents"],
        out["image"],
        value["hq"],
        value["prompt_embeds"],
        Draws(value["diff_noise"], value["diff_timesteps"]),
    )
    assert relative(loss, golden["loss_diff"]) <= 1e-5
    loss.backward()
    trained = {official_name(name): p for name, p in networks.regulariser_parameters.items()}
    assert set(trained) == {str(name) for name in golden["reg_names"]}
    found = np.array([float(trained[str(name)].grad.norm()) for name in golden["reg_names"]])
    assert relative(found, golden["reg_gradnorms"]) <= 1e-3
    assert not any(p.grad is not None for p in networks.generator_parameters.values())
