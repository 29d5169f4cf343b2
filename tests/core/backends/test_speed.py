"""The switches for speed change what is computed by no more than they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from mini_models.networks import MiniModel
from torch import Tensor, fx

from osediff_core import OneStepGenerator
from osediff_core.backends.speed import Speed
from osediff_core.tiles.vae import VAETiling

PLAIN = Speed(channels_last=False)


def restored(mini: MiniModel, speed: Speed, dtype: str = "fp32", strength: float = 1.0) -> Tensor:
    lq = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(7)) * 2 - 1
    generator = OneStepGenerator.load(mini.base, mini.weights, dtype=dtype, device="cpu", speed=speed)
    generator.set_strength(strength, strength)
    return generator.restore(lq, "a wall")


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
