from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osediff_core.errors import OptionError
from training.config import load_config, parse_config
from training.cost import (
    GIB,
    OFFICIAL,
    Recipe,
    compared,
    comparison,
    cost,
    details,
    main,
    recipe_of,
    weights_memory,
)
from training.counting import count_step
from training.meta_networks import build_on_meta

# Another count of the official recipe: parameters on the real networks, the rest with torch's counter at 512 px.
PARAMETERS = {
    2: (2_224_374, 4_252_230),
    4: (4_436_908, 8_492_620),
    8: (8_861_976, 16_973_400),
    16: (17_712_112, 33_934_960),
}
TFLOPS = {
    "VAE encode": 1.14,
    "UNet": 0.81,
    "VAE decode": 2.52,
    "perceptual": 0.32,
    "generator backward": 4.84,
    "fake score": 0.81,
    "teacher": 1.61,
    "regulariser": 0.81,
    "regulariser backward": 0.94,
}
TINY = Recipe(base="tiny", base_dtype="fp32", precision="fp32", resolution=64, perceptual="none")
SAVED_GIB = {"VAE encode": 3.0, "UNet": 1.75, "VAE decode": 5.6, "regulariser": 1.75}


@pytest.mark.slow
def test_official_recipe_at_full_size():
    found = cost(Recipe(base_dtype="fp32", precision="fp32"))
    assert (found.generator, found.generator + found.regulariser) == PARAMETERS[4]
    for part, expected in TFLOPS.items():
        assert found.flops[part] / 1e12 == pytest.approx(expected, rel=0.02), part
    assert sum(found.flops.values()) / 1e12 == pytest.approx(13.8, rel=0.02)
    for part, expected in SAVED_GIB.items():
        assert found.saved[part] / GIB == pytest.approx(expected, rel=0.02), part
    networks = build_on_meta("sd21", 4, 4, 4, True)
    assert networks.base_parameters == {
        "unet": 865_910_724,
        "vae": 83_653_863,
        "text encoder": 340_387_840,
    }


@pytest.mark.slow
def test_weights_of_three_copies_and_of_one():
    networks, vgg = build_on_meta("sd21", 4, 4, 4, True), 14_714_688
    trained = (
        sum(networks.trainable(n) for n in (networks.generator_adapters, networks.regulariser_adapters)) * 16
    )
    official = sum(weights_memory(networks, OFFICIAL, vgg).values()) + trained
    assert official / GIB == pytest.approx(10.8, rel=0.01)
    ours = weights_memory(networks, Recipe(base_dtype="bf16"))
    cached_prompts = sum(ours.values()) - ours["text encoder"] + trained
    assert cached_prompts / GIB == pytest.approx(1.9, rel=0.01)
    assert sum(ours.values()) + trained < 0.45 * official


@pytest.mark.slow
@pytest.mark.parametrize("rank", [2, 16])
def test_parameters_by_rank(rank):
    networks = build_on_meta("sd21", rank, rank, rank, True)
    ours, its = (
        networks.trainable(names) for names in (networks.generator_adapters, networks.regulariser_adapters)
    )
    assert (ours, ours + its) == PARAMETERS[rank]


@pytest.fixture(scope="module")
def tiny():
    return build_on_meta("tiny", 4, 4, 4, True)


@pytest.fixture(scope="module")
def plain(tiny):
    return cost(TINY)


def test_trained_parameters_are_the_trainers(tiny):
    from training.config import ModelConfig
    from training.networks import build_networks

    networks = build_networks(ModelConfig(base="tiny"), torch.device("cpu"))
    for names, theirs in (
        (tiny.generator_adapters, networks.generator_parameters),
        (tiny.regulariser_adapters, networks.regulariser_parameters),
    ):
        assert tiny.trainable(names) == sum(parameter.numel() for parameter in theirs.values())


def test_recomputing_costs_a_forward_and_saves_memory(tiny, plain):
    again = count_step(tiny, None, 64, 1, gradient_checkpointing=True)
    assert plain.memory["largest block computed again"] == 0 < again.block < plain.memory["activations"]
    for part in ("VAE encode", "UNet", "VAE decode", "regulariser"):
        assert again.saved[part] < 0.5 * plain.saved[part], part
        assert again.flops[part] == plain.flops[part]
    forward = sum(plain.flops[part] for part in ("VAE encode", "UNet", "VAE decode"))
    more = again.flops["generator backward"] - plain.flops["generator backward"]
    assert 0.7 * forward < more <= forward


def test_saved_bytes_are_those_of_a_real_network(plain):
    """The tiny VAE's encoder on the CPU, where storages hold numbers."""
    from diffusers import AutoencoderKL

    from osediff_core.backends.find_base import PACKAGED

    vae = AutoencoderKL.from_pretrained(PACKAGED["tiny"] / "vae").requires_grad_(False)
    vae.encoder.conv_in.requires_grad_(True)
    storages = {}
    weights = {p.untyped_storage().data_ptr() for p in vae.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    real = sum(storage.nbytes() for storage in storages.values())
    assert out.requires_grad
    assert real < plain.saved["VAE encode"] < 1.25 * real  # LoRA keeps its inner vectors, too


def test_half_precision_saves_less(tiny, plain):
    half = count_step(tiny, None, 64, 1, base_dtype="bf16", precision="bf16")
    for part, size in plain.saved.items():
        assert 0.5 * size < half.saved[part] < size, part  # normalisation and activation layers stay fp32
    assert {part: half.flops[part] for part in plain.flops} == plain.flops


def test_nothing_to_train_for_csd(plain):
    found = cost(replace(TINY, regulariser="csd"))
    assert found.regulariser == 0 and "fake score" not in found.flops and "regulariser" not in found.flops
    assert found.flops["teacher"] == plain.flops["teacher"]


def test_configurations(plain):
    config = parse_config(
        {
            "output": "x",
            "data": {"sources": [{"path": "y"}], "resolution": 64},
            "model": {"base": "tiny"},
            "optim": {"accumulate": 3, "regulariser_steps": 2, "ema": 0.9},
            "batch": 2,
            "loss": {"perceptual_kind": "none"},
        }
    )
    found = cost(recipe_of(config, "mine"))
    assert found.flops["UNet"] == 2 * 3 * plain.flops["UNet"]
    assert found.flops["regulariser"] == 2 * 3 * 2 * plain.flops["regulariser"]
    assert found.saved["VAE decode"] == pytest.approx(2 * plain.saved["VAE decode"], rel=0.01)
    assert found.memory["average"] == 4 * found.generator
    config.model.tune_vae = "both"
    with pytest.raises(OptionError, match="tune_vae=both"):
        recipe_of(config, "mine")


def test_the_page_s_row_of_one_card_is_its_recipe():
    recipe = compared()[-1]
    root = Path(__file__).parents[2]
    config = load_config(root / "training/configs/osediff_24gb.yaml")
    assert (recipe.batch, recipe.accumulate) == (config.batch, config.optim.accumulate)
    assert recipe.checkpointing == config.model.gradient_checkpointing
    page = (root / "docs/training_cost.md").read_text()
    assert f"| {recipe.name} | {recipe.batch} |" in page


def test_command(capsys, caplog):
    assert main(["--base", "tiny", "--resolution", "64", "--rank", "8"]) == 0
    text = capsys.readouterr().out
    assert "trained parameters" in text and "TFLOP" in text
    assert main(["--base", "tiny", "--resolution", "100"]) == 2
    assert "multiple of 64" in caplog.text
    assert main(["--base", "tiny", "--precision", "fp32"]) == 2
    assert "needs autocast" in caplog.text


def test_tables(plain):
    table = comparison([plain]).splitlines()
    assert len(table) == 3 and all(line.count("|") == table[0].count("|") for line in table)
    assert "64 px" in details(plain, markdown=False)
    assert "| memory | GiB |" in details(plain, markdown=True)
