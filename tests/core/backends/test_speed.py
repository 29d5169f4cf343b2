"""The switches for speed change what is computed by no more than they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from mini_weights import MiniModel
from torch import Tensor, fx

from osediff_core import OneStepGenerator
from osediff_core.backends.load_base import load_base
from osediff_core.backends.speed import HalfAttention, Speed, fold_timestep
from osediff_core.tiles.vae import VAETiling

PLAIN = Speed(fold_timestep=False, channels_last=False, half_attention=False)


def restored(mini: MiniModel, speed: Speed, dtype: str = "fp32", strength: float = 1.0) -> Tensor:
    lq = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(7)) * 2 - 1
    generator = OneStepGenerator.load(mini.base, mini.weights, dtype=dtype, device="cpu", speed=speed)
    generator.set_strength(strength, strength)
    return generator.restore(lq, "a wall")


def test_a_folded_timestep_gives_the_same_prediction(mini: MiniModel) -> None:
    base, folded = (load_base(mini.base, "fp32", "cpu") for _ in range(2))
    fold_timestep(folded.unet.module, 600)
    latents, embeds = torch.randn(2, 4, 8, 12), torch.randn(2, 77, 64)
    with torch.inference_mode():
        expected = base.unet(latents, torch.tensor([600, 600]), embeds)
        found = folded.unet(latents, torch.tensor([600, 600]), embeds)
        other = base.unet(latents, torch.tensor([100, 100]), embeds)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (other - expected).abs().max() > 1e-3  # so that the timestep matters in this network at all
    blocks = [block for block in folded.unet.module.modules() if isinstance(block, ResnetBlock2D)]
    assert blocks and all(block.time_emb_proj is None for block in blocks)


def test_the_fp32_defaults_change_nothing(mini: MiniModel) -> None:
    torch.testing.assert_close(restored(mini, Speed()), restored(mini, PLAIN), rtol=0, atol=1e-5)


@pytest.mark.parametrize("slice_size", [7, 512])
def test_half_attention_is_attention(
    mini: MiniModel, slice_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HalfAttention, "slice_size", slice_size)
    found = restored(mini, Speed(half_attention=True))
    torch.testing.assert_close(found, restored(mini, PLAIN), rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_with_all_switches_is_as_close_as_without(mini: MiniModel, dtype: str) -> None:
    exact = restored(mini, PLAIN)
    plain, fast = (
        float((restored(mini, speed, dtype) - exact).square().mean().sqrt()) for speed in (PLAIN, Speed())
    )
    assert fast < 1.5 * plain and plain > 0


def test_the_strength_can_change_on_channels_last_networks(mini: MiniModel) -> None:
    fast = Speed(channels_last=True)
    expected = restored(mini, PLAIN, strength=0.5)
    torch.testing.assert_close(restored(mini, fast, strength=0.5), expected, rtol=0, atol=1e-3)
    generator = OneStepGenerator.load(mini.base, mini.weights, dtype="bf16", device="cpu")
    weight = generator.unet.module.mid_block.resnets[0].conv1.weight
    generator.set_strength(0.5, 0.5)
    again = generator.unet.module.mid_block.resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not again.is_contiguous()


@pytest.mark.slow
def test_compiled_networks_give_the_same_and_keep_their_weights_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: Counter[str] = Counter()
    real = torch.compile

    def compile_(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = type(call.__self__).__name__

        def eager(graph: fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Tensor]:
            def run(*args: Tensor) -> Tensor:
                runs[name] += 1
                return graph.forward(*args)

            return run

        return real(call, backend=eager)

    monkeypatch.setattr(torch, "compile", compile_)
    lq = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(7)) * 2 - 1
    plain, generator = (
        OneStepGenerator.load(
            "tiny", dtype="fp32", device="cpu", speed=Speed(channels_last=True, compile=compiled)
        )
        for compiled in (False, True)
    )
    expected = plain.restore(lq, "a wall")
    assert not runs
    torch.testing.assert_close(generator.restore(lq, "a wall"), expected, rtol=0, atol=1e-5)
    assert set(runs) == {"Encoder", "UNet2DConditionModel", "Decoder"}
    for part in ("unet", "vae"):
        names = [set(getattr(g, part).module.state_dict()) for g in (generator, plain)]
        assert names[0] == names[1]

    before = dict(runs)
    generator.set_strength(0.5, 0.5)  # new weights in the compiled networks
    plain.set_strength(0.5, 0.5)
    half = plain.restore(lq, "a wall")
    torch.testing.assert_close(generator.restore(lq, "a wall"), half, rtol=0, atol=1e-5)
    assert all(runs[name] > count for name, count in before.items())

    with torch.inference_mode():
        latents = generator.encode(lq)
        before = dict(runs)
        tiled = generator.decode(latents, tiling=VAETiling(tile=32))
        assert runs == before, "tiles take the layers one by one"
        torch.testing.assert_close(generator.decode(latents), tiled, rtol=0, atol=1e-5)
