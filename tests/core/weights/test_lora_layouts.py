"""LoRA files for other programs: diffusers' own loader, several sets in one, and what has no place in them."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from osediff_core import OneStepGenerator
from osediff_core.backends.find_base import find_base
from osediff_core.cli.main import main
from osediff_core.errors import CheckpointError
from osediff_core.weights.lora_layouts import lora_bytes, unet_update
from osediff_core.weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights

TINY = find_base("tiny")


def convert(*words):
    return main(["convert", str(TINY.default_weights), *map(str, words)])


@pytest.fixture(scope="module")
def generator():
    return OneStepGenerator.load("tiny", dtype="fp32", device="cpu")


@torch.no_grad()
def test_diffusers_loads_the_lora_by_itself(generator, tmp_path, capsys):
    assert convert(tmp_path / "lora.safetensors", "--to", "diffusers", "--base", "tiny") == 0
    assert "The VAE's LoRA has no place in a LoRA file; --vae writes" in capsys.readouterr().out
    pipe = StableDiffusionPipeline.from_pretrained(TINY.path, safety_checker=None, feature_extractor=None)
    latents = torch.randn(2, generator.vae.latent_channels, 16, 16)
    timesteps, prompt_embeds = torch.tensor([999, 99]), generator.text(["", "a barn"])
    wanted = generator.unet(latents, timesteps, prompt_embeds)
    plain = pipe.unet(latents, timesteps, prompt_embeds).sample
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    found = pipe.unet(latents, timesteps, prompt_embeds).sample
    assert torch.allclose(found, wanted, atol=2e-5) and (plain - wanted).abs().max() > 0.1
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert file.metadata()["timestep"] == str(generator.timestep)


@torch.no_grad()
def test_the_vae_is_written_with_its_lora_merged(generator, tmp_path, capsys):
    lora, images = tmp_path / "lora.safetensors", torch.rand(1, 3, 32, 32) * 2 - 1
    for vae in (tmp_path / "vae", tmp_path / "vae.safetensors"):
        assert convert(lora, "--to", "diffusers", "--base", "tiny", "--vae", vae) == 0
    assert "no place" not in capsys.readouterr().out
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    found = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    assert torch.allclose(found, generator.encode(images), atol=1e-4)
    whole, folder = (
        load_file(tmp_path / "vae.safetensors"),
        load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors"),
    )
    assert whole.keys() == folder.keys() and all(torch.equal(whole[name], folder[name]) for name in whole)


def lora_set(name, rank, scale):
    return LoRASet(
        {
            "conv_in": LoRAPair(torch.randn(rank, 4, 3, 3), torch.randn(8, rank, 1, 1)),
            "mid.to_q": LoRAPair(torch.randn(rank, 5), torch.randn(6, rank)),
        },
        rank=rank,
        scale=scale,
        name=name,
    )


def product(a, b):
    return b.flatten(1) @ a.flatten(1)


def test_sets_become_one_and_conv_in_a_lora_of_its_own():
    sets = (lora_set("pix", 4, 2.0), lora_set("sem", 3, 0.5))
    weights = OneStepWeights("pisa-sr", sets, metadata={"timestep": "1"})
    pairs, bias = unet_update(weights, {})
    wanted = {m: sum(s.scale * product(*s[m]) for s in sets) for m in ("conv_in", "mid.to_q")}
    assert bias is None and pairs["mid.to_q"].A.shape == (7, 5)
    for module, pair in pairs.items():
        assert torch.allclose(product(*pair), wanted[module], atol=1e-5)
    base = {"weight": torch.randn(8, 4, 3, 3), "bias": torch.randn(8)}
    weights.conv_in = {"weight": torch.randn(8, 4, 3, 3), "bias": torch.randn(8)}
    pairs, bias = unet_update(weights, base)
    update = (weights.conv_in["weight"] - base["weight"]).flatten(1) + wanted["conv_in"]
    assert torch.allclose(product(*pairs["conv_in"]), update, atol=1e-5)
    assert torch.equal(base["bias"] + bias, base["bias"] + (weights.conv_in["bias"] - base["bias"]))
    assert len(pairs["conv_in"].A) == 36


def test_ranks_and_alphas_are_said_for_older_releases(tmp_path):
    weights = OneStepWeights("osediff", (lora_set("", 4, 2.0),), metadata={"timestep": "1"})
    weights.conv_in = {"weight": torch.zeros(8, 4, 3, 3), "bias": torch.zeros(8)}
    weights.unet_sets[0]["mid.to_k"] = weights.unet_lora["mid.to_q"]
    (tmp_path / "x.safetensors").write_bytes(lora_bytes(weights, "diffusers", weights.conv_in))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (said["unet.r"], said["unet.lora_alpha"]) == (4, 4)
    assert said["unet.rank_pattern"] == said["unet.alpha_pattern"] == {"conv_in": 36}


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (OneStepWeights("adcsr", (), network={"x": torch.zeros(1)}), "a network of its own"),
        (OneStepWeights("s3diff", (lora_set("", 4, 1.0),)), "anew for each picture"),
        (OneStepWeights("osediff", (lora_set("", 4, 1e38),)), "overflow"),
        (OneStepWeights("osediff", (lora_set("", 4, 1.0),), missing=["unet x"]), "incomplete"),
    ],
)
def test_what_has_no_place_is_refused(weights, why):
    with pytest.raises(CheckpointError, match=why):
        lora_bytes(weights, "comfyui", {}, torch.float16)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x.safetensors", "--to", "comfyui"], "needs the base that it is for, as they replace its conv_in"),
        (["x.safetensors", "--base", "tiny"], "--base goes with --to, one of diffusers, comfyui."),
        (["x.safetensors", "--vae", "v"], "--vae goes with --to"),
        (["x.pkl", "--to", "comfyui", "--base", "tiny"], "must end in .safetensors with --to"),
        (["x.safetensors", "--to", "comfyui", "--base", "tiny", "--vae", "x.safetensors"], "another file"),
        (["x.safetensors", "--to", "comfyui", "--dape", "d.pth"], "--dape is for taggers"),
    ],
)
def test_wrong_options(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert convert(*words) != 0
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())
