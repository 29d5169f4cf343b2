"""Cost by the trainer's own step on tensors without numbers, against numbers counted in other ways."""

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from osediff_core.errors import OptionError
from training.config import load_config, parse_config
from training.cost.__main__ import main
from training.cost.measure import measure
from training.cost.meter import Meter
from training.cost.page import RUNS, VARIANTS
from training.cost.plan import GPUS, Plan
from training.draws import Draws
from training.networks import build_networks
from training.run.updater import Updater
from training.steps import GeneratorStep, RegulariserStep

ROOT = Path(__file__).parents[2]


def config_of(base, *, resolution=64, **changes):
    values = {
        "output": "x",
        "batch": 1,
        "data": {"sources": [{"path": "y"}], "resolution": resolution},
        "model": {"base": str(base)},
        "loss": {"perceptual_kind": "none"},
    }
    for name, change in changes.items():
        values[name] = values.get(name, {}) | change if isinstance(change, dict) else change
    return parse_config(values)


@pytest.fixture(scope="module")
def plain(mini_base):
    return measure(config_of(mini_base))


@pytest.mark.slow
def test_the_official_recipe_at_full_size():
    """Parameters and TFLOP of another count, on the real networks and part by part with torch's counter."""
    found = measure(config_of("sd21", resolution=512, loss={"perceptual_kind": "lpips-vgg"}))
    assert found.parameters == {"generator": 4_436_908, "regulariser": 8_492_620 - 4_436_908}
    flops = {part: count / 1e12 for part, count in found.flops.items()}
    forward = (
        1.14 + 0.81 + 2.52 + 0.32 + 0.81 + 1.61
    )  # encode, UNet, decode, VGG twice, fake score, teacher twice
    assert flops["generator"] == pytest.approx(forward, rel=0.01)
    assert flops["regulariser"] == pytest.approx(0.81, rel=0.01)
    # attention computes its scores again there, which the other count left out
    assert 4.84 < flops["its backward pass"] < 1.03 * 4.84
    assert 0.94 < flops["its own backward pass"] < 1.07 * 0.94
    # UNet 865,910,724, VAE 83,653,863, text encoder 340,387,840, VGG16's convolutions with LPIPS's linear layers
    frozen = 4 * (865_910_724 + 83_653_863 + 340_387_840 + 14_714_688 + 1_472)
    assert found.memory["frozen weights"] == pytest.approx(frozen, rel=1e-3)
    # saved for the backward pass: VAE 3.0 and 5.6, UNet 1.75, VGG 0.35 GiB, in fp32
    assert found.memory["activations"] / 2**30 == pytest.approx(10.7, rel=0.1)


def real_peak(config):
    """Bytes that the CPU's allocator gave at most beyond what was there, in the second step of the same run."""
    networks = build_networks(config.model, torch.device("cpu"))
    kind, base = config.model.regulariser, networks.base
    generator = GeneratorStep(networks, config.loss, kind, None, config.precision)
    regulariser = RegulariserStep(networks, config.loss, kind, config.precision)
    ours = Updater(networks.generator_parameters, 1e-4, config.optim, 9)
    its = Updater(networks.regulariser_parameters, 1e-4, config.optim, 9)
    side, batch = config.data.resolution, config.batch
    text = base.text.module.config
    image = torch.rand(batch, 3, side, side)
    embeds = torch.rand(batch, text.max_position_embeddings, text.hidden_size)
    noise = torch.randn(
        batch, base.vae.latent_channels, side // base.vae.downscale, side // base.vae.downscale
    )
    draws = Draws(noise, torch.full((batch,), 500), noise)

    def step():
        out = generator(image, image, embeds, embeds, draws)
        ours.backward(out["loss"])
        latents, made = out["latents"], out["image"]
        del out
        ours.step()
        its.backward(regulariser(latents, made, image, embeds, draws))
        its.step()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_memory_is_what_the_allocator_gives_for_a_real_step(checkpointing, mini_base, one_thread):
    config = config_of(mini_base, batch=2, resolution=96, model={"gradient_checkpointing": checkpointing})
    found = measure(config, gpu_like=False)
    predicted = found.memory["activations"] + found.memory["gradients"]
    assert predicted == pytest.approx(real_peak(config), rel=0.02)


def test_recomputing_costs_a_forward_and_saves_memory(plain, mini_base):
    again = measure(config_of(mini_base, model={"gradient_checkpointing": True}))
    assert again.memory["activations"] < 0.6 * plain.memory["activations"]
    assert again.memory["frozen weights"] == plain.memory["frozen weights"]
    assert again.flops["generator"] == plain.flops["generator"]
    assert again.flops["its backward pass"] > 1.3 * plain.flops["its backward pass"]


def test_half_precision_holds_less(plain, mini_base):
    half = measure(config_of(mini_base, precision="fp16", model={"base_dtype": "fp16"}))
    # norms stay fp32, and so do what they give and trained weights
    assert 0.5 < half.memory["frozen weights"] / plain.memory["frozen weights"] < 0.55
    assert 0.5 < half.memory["activations"] / plain.memory["activations"] < 1
    assert half.flops == plain.flops


@pytest.mark.parametrize(
    ("kind", "trains"), [("csd", False), ("none", False), ("gan", True), ("vsd-pixel", True)]
)
def test_every_regulariser_is_counted_as_it_is(kind, trains, plain, mini_base):
    found = measure(config_of(mini_base, model={"regulariser": kind}))
    assert bool(found.parameters["regulariser"]) == trains == ("regulariser" in found.flops)
    assert (found.flops["generator"] < plain.flops["generator"]) == (kind in ("csd", "none", "gan"))


def test_micro_batches_and_further_updates_multiply(plain, mini_base):
    config = config_of(mini_base, batch=2, optim={"accumulate": 3, "regulariser_steps": 2, "ema": 0.9})
    found = measure(config)
    assert found.samples == 6
    assert found.flops["generator"] == 6 * plain.flops["generator"]
    assert found.flops["regulariser"] == 2 * 6 * plain.flops["regulariser"]
    ours = "trained weights, Adam's moments, average"
    assert found.memory[ours] > plain.memory[ours] + 4 * found.parameters["generator"]


def test_a_plan_is_arithmetic(plain):
    plan = Plan(GPUS["a100"], gpus=4, utilisation=0.5, price=2.0)
    hours = plan.hours(plain, 1000)
    assert hours == pytest.approx(1000 * sum(plain.flops.values()) / (312e12 * 0.5) / 3600)
    assert plan.dollars(hours) == pytest.approx(hours * 8)
    with pytest.raises(OptionError, match="--utilisation"):
        Plan(GPUS["a100"], utilisation=0)


def test_the_meter_knows_what_is_gone():
    with Meter() as meter:
        kept = torch.zeros(1000)
        view = kept[10:].view(-1)
        assert meter.held == meter.peak == 4000
        gone = kept + 1
        del gone, view
        assert meter.held == 4000 and meter.peak == 8000
        meter.reset()
        assert meter.peak == 4000
    assert kept.shape == (1000,)


def test_command(capsys, caplog, tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "{output: x, data: {sources: [{path: y}], resolution: 64}, loss: {perceptual_kind: none}}"
    )
    assert main(["--config", str(config), "model.rank_unet=8", "--gpu", "h100", "--gpus", "2"]) == 0
    text = capsys.readouterr().out
    for word in ("trained parameters", "activations", "TFLOP", "2 x H100", "dollars"):
        assert word in text
    assert main(["--config", str(config), "data.resolution=102"]) == 2
    assert "multiple of 4" in caplog.records[-1].getMessage()
    assert main(["--config", str(config), "--gpus", "0"]) == 2


def test_the_page_has_a_row_for_every_recipe_of_sd21():
    page = (ROOT / "docs/training_cost.md").read_text()
    for row in RUNS:
        config = load_config(ROOT / f"training/configs/{row.config}.yaml", list(row.settings))
        assert f"{row.name}: `{row.config}.yaml`" in page
        assert f"| {config.batch} x {config.optim.accumulate} |" in page
    assert all(f"| {row.name} | 4 |" in page for row in VARIANTS)
    recipes = {path.stem for path in (ROOT / "training/configs").glob("osediff_*.yaml")}
    assert recipes == {row.config for row in RUNS}
