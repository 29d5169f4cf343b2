"""Every stage on ComfyUI's own classes equals the core's on diffusers: 1e-4 relative, in fp32."""

from dataclasses import replace

import pytest
import torch
from node_graph import decode, denoise, distance, encode, planes, prompt

from osediff_core import OneStepGenerator
from osediff_core.tiles.unet import UNetTiling

TOLERANCE = 1e-4


@pytest.fixture
def core_latents(photo, generator):
    """What the core encodes of the photo at four times its size: scaled (1, 8, 32, 48), and the input for it."""
    from osediff_core.geometry import enlarge

    lq, _ = enlarge(photo.movedim(-1, 1), None, (4 * photo.shape[2], 4 * photo.shape[1]))
    with torch.inference_mode(False), torch.no_grad():
        return generator.encode((lq * 2 - 1).clone()), lq


@pytest.mark.parametrize("text", ["", "barn, red, grass", "a prompt of a few words"])
def test_prompt(pack, tiny, generator, text):
    assert distance(prompt(pack, tiny[1], text)[0][0], generator.encode_prompt([text])) < TOLERANCE


def test_a_prompt_too_long_is_cut_where_the_core_cuts_it(pack, tiny, generator):
    text = ", ".join(["window"] * 60)
    assert distance(prompt(pack, tiny[1], text)[0][0], generator.encode_prompt([text])) < TOLERANCE


def test_encode(pack, tiny, photo, core_latents, generator):
    latent, reference = encode(pack, photo, tiny[2])
    latents, lq = core_latents
    assert distance(latent["samples"] * generator.vae.scaling_factor, latents) < TOLERANCE
    assert torch.equal(reference, lq.movedim(1, -1))


def test_encode_sampled(pack, tiny, photo, core_latents, generator):
    latent, _ = encode(pack, photo, tiny[2], posterior="sample", seed=7)
    draw = torch.Generator().manual_seed(7)
    expected = generator.encode(core_latents[1] * 2 - 1, True, draw)
    assert distance(latent["samples"] * generator.vae.scaling_factor, expected) < TOLERANCE
    assert distance(expected, core_latents[0]) > 1e-3, "the draw changes nothing"


@pytest.mark.parametrize("tiles", [{"tile": 0}, {"tile": 96, "overlap": 32}, {"tile": 16, "overlap": 8}])
def test_denoise(pack, tiny, generator, core_latents, tiles):
    latents, _ = core_latents
    unscaled = {"samples": latents / generator.vae.scaling_factor}
    found = denoise(pack, tiny[0], prompt(pack, tiny[1], "barn"), unscaled, **tiles)
    tiling = UNetTiling(tiles["tile"] or None, tiles.get("overlap"))
    expected = generator.denoise(latents, generator.encode_prompt(["barn"]), tiling=tiling)
    assert distance(found["samples"] * generator.vae.scaling_factor, expected) < TOLERANCE


def test_a_method_with_another_timestep_and_rule(pack, generator, core_latents):
    models = pack.load.LoadOSEDiff.execute(pack.folders.EMBEDDED, pack.folders.NONE, 1.0, 1.0, "fp32").args
    weights = pack.folders.read_chosen(pack.folders.EMBEDDED)
    weights.metadata |= {"timestep": "1", "rule": "residual"}
    model, _ = pack.native_lora.apply_weights(models[0], models[2], weights)
    latents, _ = core_latents
    unscaled = {"samples": latents / generator.vae.scaling_factor}
    found = denoise(pack, model, prompt(pack, models[1], "barn"), unscaled, tile=16, overlap=8)
    schedule = replace(generator.schedule, prediction_type="residual")
    expected = OneStepGenerator(generator.vae, generator.unet, generator.text, schedule, 1).denoise(
        latents, generator.encode_prompt(["barn"]), tiling=UNetTiling(16, 8)
    )
    assert distance(found["samples"] * generator.vae.scaling_factor, expected) < TOLERANCE


def test_decode(pack, tiny, generator, core_latents):
    latents, _ = core_latents
    image = decode(pack, {"samples": latents / generator.vae.scaling_factor}, tiny[2], color_fix="none")
    assert distance(planes(image), generator.decode(latents)) < TOLERANCE


@pytest.mark.parametrize("strength", [(0.5, 0.5), (0.0, 1.0), (1.3, 0.0)])
def test_strength(pack, photo, generator, core_latents, strength):
    model, clip, vae = pack.load.LoadOSEDiff.execute(
        pack.folders.EMBEDDED, pack.folders.EMBEDDED, *strength, "fp32"
    ).args
    latent, _ = encode(pack, photo, vae)
    found = denoise(pack, model, prompt(pack, clip), latent)
    try:
        generator.set_strength(*strength)
        latents = generator.encode(core_latents[1] * 2 - 1)
        expected = generator.denoise(latents, generator.encode_prompt([""]))
    finally:
        generator.set_strength(1.0, 1.0)
    assert distance(found["samples"] * generator.vae.scaling_factor, expected) < TOLERANCE


def test_the_sampler_twin_is_the_same_step(pack, tiny, photo):
    import comfy.samplers

    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    positive = prompt(pack, clip)
    sampler, sigmas = pack.denoise.OSEDiffSampler.execute(model, 96, 32, 1.0).args
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    noise = torch.randn_like(latent["samples"])
    found = guider.sample(noise, latent["samples"], sampler, sigmas)
    assert torch.equal(found, denoise(pack, model, positive, latent)["samples"]), "noise must not matter"


def test_guidance(pack, tiny, photo, generator, core_latents):
    """cfg as everywhere: negative + cfg (positive - negative), of x0 as of the noise."""
    model, clip, vae = tiny
    latent, _ = encode(pack, photo, vae)
    positive, negative = prompt(pack, clip, "barn"), prompt(pack, clip, "blurry")
    found = denoise(pack, model, positive, latent, cfg=3.0, negative=negative)["samples"]
    one, other = (
        generator.denoise(core_latents[0], generator.encode_prompt([text])) for text in ("barn", "blurry")
    )
    assert distance(found * generator.vae.scaling_factor, other + 3 * (one - other)) < TOLERANCE
