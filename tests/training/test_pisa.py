"""PiSA-SR's two stages: which LoRA acts and learns, what is computed, and the file that comes out."""

import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from run_settings import soft_pictures, write_settings

from osediff_core.errors import CheckpointError, OptionError
from osediff_core.generator import OneStepGenerator
from osediff_core.weights.checkpoint import read_weights
from osediff_core.weights.formats import pisa_sr
from training import pisa
from training.config import ModelConfig, load_config, parse_config
from training.networks import build_networks
from training.train import main

CPU = torch.device("cpu")
CONFIGS = Path(pisa.__file__).parent / "configs"


@pytest.fixture
def settings(mini_base, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    soft_pictures(pictures, 3, (15, 12), (90, 72))
    return {
        "output": str(tmp_path / "pixel"),
        "steps": 3,
        "batch": 2,
        "device": "cpu",
        "save_every": 2,
        "loggers": [],
        "data": {
            "sources": [{"path": str(pictures)}],
            "resolution": 32,
            "degradation": "light",
            "captions": "text:a wall",
            "prompt_dropout": 0.5,
            "prompt_dropout_of": "generator",
            "workers": 0,
        },
        "model": {
            "base": str(mini_base),
            "method": "pisa-sr",
            "stage": "pixel",
            "tune_vae": "none",
            "regulariser": "none",
        },
        "loss": {"perceptual": 0.0},
        "optim": {"learning_rate": 1e-2},
    }


def networks(base, stage, **options):
    return build_networks(
        ModelConfig(
            base=str(base), method="pisa-sr", stage=stage, tune_vae="none", regulariser="csd", **options
        ),
        CPU,
    )


def fill(module, seed=0):
    """B of every adapter away from zero, so that each acts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))


def test_both_stages_make_a_file_that_all_read(settings, mini_base, tmp_path, one_thread):
    assert main(["--config", str(write_settings(tmp_path / "a.yaml", settings, {}))]) == 0
    first = read_weights(tmp_path / "pixel/weights.pkl")
    assert first.method == "pisa-sr" and [lora.name for lora in first.unet_sets] == ["pix", "sem"]
    pix, sem = first.unet_sets
    assert all(bool(pair.B.any()) for pair in pix.values()) and not any(
        bool(pair.B.any()) for pair in sem.values()
    )
    second = {
        "output": str(tmp_path / "semantic"),
        "model": {
            "stage": "semantic",
            "start_from": str(tmp_path / "pixel/weights.pkl"),
            "regulariser": "csd",
        },
    }
    assert main(["--config", str(write_settings(tmp_path / "b.yaml", settings, second))]) == 0
    found = read_weights(tmp_path / "semantic/weights.pkl")
    for name, pair in found.unet_sets[0].items():  # frozen
        assert torch.equal(pair.A, pix[name].A) and torch.equal(pair.B, pix[name].B)
    assert all(bool(pair.B.any()) for pair in found.unet_sets[1].values())
    assert found.timestep == 1 and found.rule == "residual"
    checkpoint = tmp_path / "semantic/checkpoints/step_00000003/weights.pkl"
    assert read_weights(checkpoint).method == "pisa-sr"
    # what was trained is what the core restores with, by both sliders at 1
    generator = OneStepGenerator.load(
        mini_base, tmp_path / "semantic/weights.pkl", dtype="fp32", device="cpu"
    )
    ours = networks(mini_base, "semantic", start_from=str(tmp_path / "semantic/weights.pkl")).generator
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    embeds = ours.encode_prompt([""])
    with torch.no_grad():
        torch.testing.assert_close(
            ours.denoise(z, embeds), generator.denoise(z, generator.encode_prompt([""])), atol=1e-5, rtol=1e-4
        )


def test_the_official_names_and_lists(mini_base):
    made = networks(mini_base, "pixel")
    content = torch.load(io.BytesIO(pisa_sr.write(made.weights({}))), weights_only=True)
    groups = [
        f"unet_lora_{group}_modules_{level}"
        for level in ("pix", "sem")
        for group in ("encoder", "decoder", "others")
    ]
    assert set(content) == {*groups, "lora_rank_unet_pix", "lora_rank_unet_sem", "state_dict_unet"}
    assert "conv_in" in content["unet_lora_encoder_modules_pix"] and content["lora_rank_unet_pix"] == 4
    state = content["state_dict_unet"]
    assert (
        "conv_in.lora_A.default_encoder_pix.weight" in state
        and "conv_out.lora_B.default_decoder_sem.weight" in state
    )
    assert not any("base_layer" in name for name in state)
    listed = sum(len(content[name]) for name in groups)
    assert len(state) == 2 * listed


@pytest.mark.parametrize("stage", ["pixel", "semantic"])
def test_which_lora_acts_and_learns(mini_base, stage):
    made = networks(mini_base, stage)
    unet = made.base.unet.module
    fill(unet)
    trained = {name.split(".")[-2] for name in made.generator_parameters}
    assert trained == set(pisa.adapters_of(stage))
    assert not any("base_layer" in name for name in made.generator_parameters)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    embeds = made.generator.encode_prompt(["a wall"])
    with torch.no_grad():
        before = made.generator.denoise(z, embeds)
        eps = made.predict("generator", z, torch.tensor([1]), embeds)
        torch.testing.assert_close(before, z - eps)  # the residual rule, at timestep 1
        for name, parameter in unet.named_parameters():
            if ".lora_B." in name and "_sem." in name:
                parameter.zero_()
        changed = not torch.allclose(before, made.generator.denoise(z, embeds))
    assert changed == (stage == "semantic")
    # the teacher of CSD is the base, by its own rule
    assert made.base.schedule.prediction_type == "epsilon"


def test_the_gradient_of_the_second_set_is_that_of_merged_weights(mini_base):
    """Finite differences through the whole step, of one number of the semantic set."""
    made = networks(mini_base, "semantic")
    fill(made.base.unet.module)
    name = next(
        n for n in made.generator_parameters if n.endswith("attn2.to_q.lora_B.default_encoder_sem.weight")
    )
    parameter = made.generator_parameters[name]
    lq, hq = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    embeds = made.generator.encode_prompt(["a wall"])

    def loss():
        generator = made.generator
        return F.mse_loss(generator.decode(generator.denoise(generator.encode(lq), embeds)), hq)

    (gradient,) = torch.autograd.grad(loss(), parameter)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            parameter.add_(sign * 0.05 * direction)
            values.append(float(loss()))
            parameter.sub_(sign * 0.05 * direction)
    assert (values[0] - values[1]) / 0.1 == pytest.approx(float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"stage": None}, "needs model.stage"),
        ({"stage": "semantic"}, "needs model.start_from"),
        ({"tune_vae": "encoder"}, "holds no VAE"),
        ({"method": "osediff"}, "is of model.method pisa-sr"),
    ],
)
def test_what_cannot_be_is_refused(settings, model, words):
    settings["model"] |= model
    with pytest.raises(OptionError, match=words):
        parse_config(settings)


def test_it_starts_from_its_own_method_alone(mini_base):
    with pytest.raises(CheckpointError, match="of the method osediff"):
        networks("tiny", "pixel", start_from="base")


@pytest.mark.parametrize("name", ["pisa_pixel", "pisa_semantic"])
def test_the_recipes_are_valid(name):
    assert load_config(CONFIGS / f"{name}.yaml").model.method == "pisa-sr"
