"""Tiles of the VAE against the whole image by diffusers itself: any size, any tile, any precision, little memory."""

from __future__ import annotations

import itertools
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from mini_models.networks import tiny_vae
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from tiled_vae_cases import MIB, decode, encode, image, latents, lively_vae, make_lively
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.networks import DiffusersVAE
from osediff_core.errors import OptionError, OutOfMemory
from osediff_core.layers import Convolution, Norm, Span
from osediff_core.tiles.vae import VAETiling
from osediff_core.tiles.vae.attention import Places
from osediff_core.tiles.vae.plan import multiplications, tiles, untiled_bytes, untiled_plan
from osediff_core.tiles.vae.stage import goes_whole, run, transform
from osediff_core.tiles.vae.statistics import Moments

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


# --- exactness ---


@pytest.mark.parametrize("tile", [8, 17, 40, 1000, None])
@pytest.mark.parametrize("size", [(4, 4), (4, 84), (36, 52)])
def test_tiles_give_the_result_of_the_whole_image(vae, size, tile):
    x, z = image(*size), latents(size[0] // 4, size[1] // 4)
    moments, decoded = vae.module.encode(x).latent_dist.parameters, vae.module.decode(z).sample
    assert (encode(vae, x, tile=tile) - moments).abs().max() <= 2e-5
    assert (decode(vae, z, tile=tile) - decoded).abs().max() <= 2e-5


def test_sizes_tiles_and_budgets_at_random(vae):
    rng = random.Random(0)
    for _ in range(12):
        x = image(rng.randint(4, 70), rng.randint(4, 70))  # odd sizes, too: the network itself takes them
        z = latents(rng.randint(1, 17), rng.randint(1, 17))
        options = {
            "tile": rng.choice([None, rng.randint(1, 60)]),
            "budget": rng.choice([20_000, 200_000, 8 * MIB]),
        }
        if options["tile"] is not None and options["tile"] < 8:
            x, z = x[..., :24, :24], z[..., :6, :6]
        moments, decoded = vae.module.encode(x).latent_dist.parameters, vae.module.decode(z).sample
        assert (encode(vae, x, **options) - moments).abs().max() <= 2e-5, (x.shape, options)
        assert (decode(vae, z, **options) - decoded).abs().max() <= 2e-5, (z.shape, options)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_each_image_of_a_batch_has_its_own_statistics(vae, direction):
    x = latents(9, 12, batch=3) if direction == "decode" else image(36, 48, batch=3)
    x[1] *= 3
    tiled = {"encode": encode, "decode": decode}[direction]
    together = tiled(vae, x, tile=16)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], tiled(vae, x[i : i + 1], tile=16), rtol=0, atol=1e-5)
    whole = (
        vae.module.decode(x).sample if direction == "decode" else vae.module.encode(x).latent_dist.parameters
    )
    assert (together - whole).abs().max() <= 3e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"mid_block_add_attention": False},
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {
            "block_out_channels": (16,),
            "down_block_types": ("DownEncoderBlock2D",),
            "up_block_types": ("UpDecoderBlock2D",),
        },
        {
            "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        },
    ],
)
def test_other_architectures_of_the_same_class(changes):
    vae = DiffusersVAE(tiny_vae(**changes))
    make_lively(vae.module)
    f = vae.downscale
    x, z = image(16 * f, 12 * f), latents(16, 12)
    moments, decoded = vae.module.encode(x).latent_dist.parameters, vae.module.decode(z).sample
    assert (encode(vae, x, tile=6 * f) - moments).abs().max() <= 2e-5
    assert (decode(vae, z, tile=6 * f) - decoded).abs().max() <= 2e-5


def test_layers_that_peft_wraps_are_tiled_with_their_adapters():
    module = tiny_vae()
    before = module.encode(image(40, 56)).latent_dist.parameters
    targets = ["conv_in", "conv1", "conv", "to_q", "conv_shortcut"]
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=targets, init_lora_weights=False), module.encoder, "default"
    )
    moments = module.encode(image(40, 56)).latent_dist.parameters
    assert (moments - before).abs().max() > 1e-3
    assert (encode(DiffusersVAE(module), image(40, 56), tile=16) - moments).abs().max() <= 2e-5


def test_an_architecture_that_cannot_be_tiled_is_left_whole():
    assert DiffusersVAE(tiny_vae(act_fn="gelu")).decoder(8, 8) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_the_whole_image_in_it(vae, dtype):
    half = DiffusersVAE(AutoencoderKL(**vae.module.config).to(dtype))
    half.module.load_state_dict(vae.module.state_dict())
    z = latents(16, 20)
    exact, whole = vae.module.decode(z).sample, half.module.decode(z.to(dtype)).sample.float()
    tiled = decode(half, z, tile=24)
    assert tiled.dtype == torch.float32
    assert (tiled - exact).square().mean() < 1.5 * (whole - exact).square().mean()


def test_official_tiles_are_not_exact_on_this_very_network(vae):
    """What the bound above is worth: diffusers' own tiles on the same image."""
    z = latents(16, 20)
    whole = vae.module.decode(z).sample
    vae.module.enable_tiling()
    vae.module.tile_sample_min_size, vae.module.tile_latent_min_size = 32, 8
    try:
        theirs = vae.module.decode(z).sample
    finally:
        vae.module.disable_tiling()
    assert (theirs - whole).abs().max() > 0.05


# --- attention ---


def test_attention_that_gives_zeros_is_not_computed():
    """Nor does an image go whole then, where the network itself would compute it."""
    idle = lively_vae()
    for half in (idle.module.encoder, idle.module.decoder):
        for parameter in half.mid_block.attentions[0].to_out[0].parameters():
            parameter.data.zero_()
            parameter.requires_grad_(False)
    x, z, steps = image(40, 56), latents(10, 14), []
    moments, decoded = idle.module.encode(x).latent_dist.parameters, idle.module.decode(z).sample
    assert (encode(idle, x) - moments).abs().max() <= 2e-5
    found = run("decode", idle.decoder(10, 14), z, lambda: None, VAETiling(), lambda *s: steps.append(s))
    assert steps and (found - decoded).abs().max() <= 2e-5
    assert multiplications(untiled_plan(idle.decoder(10, 14), 10, 14))[1] == 0
    trained = idle.module.decoder.mid_block.attentions[0].to_out[0]
    trained.weight.requires_grad_(True)
    assert multiplications(untiled_plan(idle.decoder(10, 14), 10, 14))[1] > 0


@pytest.fixture(scope="module")
def trained() -> tuple[DiffusersVAE, Tensor]:
    """The embedded model's VAE and a photograph's latents."""
    with torch.inference_mode(False), torch.no_grad():
        vae = OneStepGenerator.load("tiny", dtype="fp32", device="cpu").vae
        with Image.open(Path(__file__).parents[3] / "examples" / "photos" / "barn.png") as barn:
            pixels = np.array(barn.convert("RGB").resize((384, 256), Image.Resampling.BICUBIC))
        photo = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
        return vae, vae.encode(photo)[:, : vae.latent_channels]


def test_pooled_attention_is_near_on_a_trained_vae(trained):
    vae, z = trained
    exact, pooled = (decode(vae, z, tile=128, attention=kind) for kind in ("exact", "pooled"))
    error = (pooled - exact).abs()
    assert 1e-6 < error.max() < 8e-3, "one level of an 8-bit picture is 8e-3"
    assert error.square().mean().sqrt() < 5e-4


def test_pooled_attention_changes_a_restored_picture_by_no_more_than_two_levels():
    generator = OneStepGenerator.load("tiny", dtype="fp32", device="cpu")
    photo, embeds = (
        Path(__file__).parents[3] / "examples/photos/lighthouse.png",
        generator.encode_prompt([""]),
    )
    with Image.open(photo) as opened:
        pixels = np.asarray(opened.convert("RGB").crop((0, 0, 256, 256)), np.float32)
    lq = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1

    def restored(kind: str) -> Tensor:
        tiling = VAETiling(128, attention=kind)
        return generator.decode(generator.denoise(generator.encode(lq, tiling=tiling), embeds), tiling=tiling)

    levels = (restored("exact") - restored("pooled")).clamp(-1, 1) * 127.5
    assert 0.01 < levels.square().mean().sqrt() < 0.4 and levels.abs().max() < 2


def test_pooling_is_announced_and_only_where_exact_attention_would_take_long(trained, monkeypatch, caplog):
    vae, z = trained
    exact = decode(vae, z, tile=128, attention="exact")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(decode(vae, z, tile=128), exact)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    monkeypatch.setattr("osediff_core.tiles.vae.stage._FREE_ATTENTION", 0)
    monkeypatch.setattr("osediff_core.tiles.vae.stage.multiplications", lambda plan: (100, 380))
    with caplog.at_level(logging.WARNING):
        pooled = decode(vae, z, tile=128)
    assert "averaged over 2 x 2 places" in caplog.text and "ask for exact attention" in caplog.text
    assert 1e-7 < (pooled - exact).abs().max() < 8e-3
    assert torch.equal(decode(vae, z, tile=128, attention="exact"), exact)


@pytest.mark.parametrize("kind", ["auto", "pooled"])
def test_pooling_holds_also_where_memory_would_do_for_the_whole_image(trained, monkeypatch, kind):
    vae, z = trained
    monkeypatch.setattr("osediff_core.tiles.vae.stage._FREE_ATTENTION", 0)
    monkeypatch.setattr("osediff_core.tiles.vae.stage.multiplications", lambda plan: (100, 380))
    whole, ample = vae.decode(z), VAETiling(attention=kind, memory=2**40)
    assert (run("decode", vae.decoder(*z.shape[-2:]), z, lambda: whole, ample) - whole).abs().max() > 1e-7
    untiled = VAETiling(0, attention=kind)
    assert run("decode", vae.decoder(*z.shape[-2:]), z, lambda: whole, untiled) is whole


@pytest.mark.parametrize(("height", "width", "side"), [(7, 9, 1), (7, 9, 4), (8, 4, 4), (1, 5, 3), (5, 5, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_places_are_averaged_over_squares_however_they_come_in(height, width, side, dtype):
    given = torch.randn(1, height, width, 6).to(dtype)
    places = Places(height, width, 6, side, dtype, given.device)
    for rows, columns in tiles(height, width, (2, 3)):
        for cols in columns:
            places.put(rows, cols, given[:, slice(*rows), slice(*cols)].flatten(1, 2))
    grid = given.permute(0, 3, 1, 2).float()
    pooled = torch.nn.functional.avg_pool2d(grid, side, ceil_mode=True, count_include_pad=False)
    expected = pooled.flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        places.all().float(), expected, atol=2e-6 if dtype == torch.float32 else 1e-2, rtol=0
    )


# --- statistics ---


@pytest.mark.parametrize("offset", [0.0, 5.0, 3000.0])
def test_statistics_are_those_of_group_norm_in_float64(offset):
    x = torch.randn(1, 12, 37, 51, dtype=torch.float64) * torch.rand(12, 1, 1) + offset
    weight, bias = torch.randn(12), torch.randn(12)
    moments = Moments()
    for rows, cols in itertools.product((slice(0, 5), slice(5, 37)), (slice(0, 50), slice(50, 51))):
        moments.add(x.float()[..., rows, cols])
    scale, shift = moments.affine(Norm(4, 1e-6, lambda: (weight, bias)), x.device)
    exact = torch.nn.functional.group_norm(x, 4, weight.double(), bias.double(), eps=1e-6)
    found = x * scale.double() + shift.double()
    # scale and shift are fp32, which at an offset of 3000 spreads leaves four digits
    assert (found - exact).abs().max() < 2e-6 * max(1.0, offset)


# --- windows ---


@pytest.mark.parametrize("change", ["same", "half", "double"])
@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_what_a_convolution_reads_is_enough_and_no_more_than_the_input(change, length):
    conv = Convolution(lambda x: x, 1, 1, 1, change)
    out = conv.size(length)
    for start, stop in itertools.combinations(range(out + 1), 2):
        (first, last), offset = conv.reads(Span(start, stop), length)
        assert 0 <= first < last <= length and offset >= 0
        assert conv.size(last - first) >= offset + stop - start


# --- when ---


def test_small_images_go_whole_and_large_ones_in_tiles(vae):
    z, calls = latents(16, 16), []

    def whole() -> Tensor:
        calls.append("whole")
        return vae.decode(z)

    def how(**tiling: object) -> str:
        calls.clear()
        run("decode", vae.decoder(16, 16), z, whole, VAETiling(**tiling), lambda *_: calls.append("tile"))
        return calls[0]

    assert how() == how(tile=0) == how(tile=64) == how(tile=0, memory=1) == "whole"
    assert how(memory=100_000) == how(tile=63) == "tile"


def test_progress_follows_the_work_and_may_stop(vae):
    """Told as many times as there are tiles, of which some count more than others."""
    seen = []
    z = latents(8, 8, batch=2)
    run("decode", vae.decoder(8, 8), z, lambda: vae.decode(z), VAETiling(16), lambda *step: seen.append(step))
    total = seen[0][1]
    assert len(seen) == total > 20 and sorted(seen) == seen and seen[-1] == (total, total)
    assert seen != [(i + 1, total) for i in range(total)]

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("decode", vae.decoder(8, 8), z, lambda: vae.decode(z), VAETiling(16), stop)


@pytest.mark.parametrize("tile", [None, 256])
def test_where_memory_ends_smaller_tiles_are_tried_and_then_help_is_offered(vae, tile, monkeypatch, caplog):
    z, asked = latents(32, 32), []
    exact = vae.module.decode(z).sample

    def fails(times: int) -> Tensor:
        asked.clear()

        def short_of_memory(
            network: object, source: Tensor, tiling: VAETiling, budget: int, progress: object
        ) -> Tensor:
            asked.append((tiling.tile, budget))
            if len(asked) <= times:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return transform(network, source, tiling, budget, progress)

        monkeypatch.setattr("osediff_core.tiles.vae.stage.transform", short_of_memory)
        monkeypatch.setattr("osediff_core.tiles.vae.stage.goes_whole", lambda *_: False)
        tiling = VAETiling(tile, memory=1024 * MIB)
        return run("decode", vae.decoder(32, 32), z, lambda: vae.decode(z), tiling)

    assert (fails(2) - exact).abs().max() < 2e-5
    assert [budget // MIB for _, budget in asked] == [1024, 512, 256]
    assert [t for t, _ in asked] == ([None] * 3 if tile is None else [256, 128, 64])
    assert "trying again" in caplog.text
    with pytest.raises(OutOfMemory, match="smallest tiles; close other programs"):
        fails(100)
    assert asked[-1][1] == 64 * MIB


def test_an_image_that_fails_whole_is_tried_in_tiles(vae):
    z = latents(8, 8)

    def whole() -> Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    found = run("decode", vae.decoder(8, 8), z, whole, VAETiling(memory=1024 * MIB))
    assert (found - vae.module.decode(z).sample).abs().max() < 2e-5


@pytest.mark.parametrize("tile", [24, 100])
def test_tiles_never_grow_where_memory_ends(vae, tile, monkeypatch):
    asked = []

    def short_of_memory(network: object, source: object, tiling: VAETiling, *_: object) -> None:
        asked.append(tiling.tile)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("osediff_core.tiles.vae.stage.transform", short_of_memory)
    z = latents(32, 32)
    with pytest.raises(OutOfMemory):
        run("decode", vae.decoder(32, 32), z, lambda: vae.decode(z), VAETiling(tile, memory=256 * MIB))
    assert asked[0] == tile and asked == sorted(asked, reverse=True) and len(asked) == 3


def test_a_batch_goes_whole_only_if_there_is_memory_for_all_of_it(vae):
    z, network = latents(16, 16, batch=4), vae.decoder(16, 16)
    for images, whole in ((1, True), (4, False)):
        enough_for_two = 2 * untiled_bytes(untiled_plan(network, 16, 16), 4)
        assert goes_whole(network, z[:images].shape, VAETiling(), enough_for_two) is whole


def test_pytorchs_default_mode_does_not_keep_frozen_weights_from_tiles():
    z, steps = latents(16, 16), []
    with torch.inference_mode(False), torch.enable_grad():
        frozen = lively_vae()
        frozen.module.requires_grad_(False)
        network, tiling = frozen.decoder(16, 16), VAETiling(memory=100_000)
        found = run("decode", network, z, lambda: None, tiling, lambda *step: steps.append(step))
    assert steps and (found - frozen.module.decode(z).sample).abs().max() < 2e-5


def test_training_goes_whole_and_refuses_tiles(vae):
    z = latents(8, 8)
    with torch.inference_mode(False), torch.enable_grad():
        z = z.clone().requires_grad_()
        network = vae.decoder(8, 8)
        run("decode", network, z, lambda: vae.decode(z), VAETiling(memory=1000)).sum().backward()
        assert z.grad.abs().sum() > 0
        with pytest.raises(OptionError, match="no gradients"):
            run("decode", network, z, lambda: vae.decode(z), VAETiling(8))


@pytest.mark.parametrize("wrong", [{"tile": -1}, {"memory": 0}, {"attention": "some"}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(OptionError):
        VAETiling(**wrong)
