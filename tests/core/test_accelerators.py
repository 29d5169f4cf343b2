"""The path on an accelerator, on fake tensors: right device, right dtype, nothing that waits for a value."""

from __future__ import annotations

import pytest
import torch
from fake_device import fake_device

from osediff_core import OneStepGenerator, color
from osediff_core.tiles.unet import UNetTiling
from osediff_core.tiles.vae import VAETiling

KINDS = ["cuda", "mps", "xpu"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

WAYS = {
    "whole": {"vae_tiling": VAETiling(tile=0)},
    "tiled": {"unet_tiling": UNetTiling(16), "vae_tiling": VAETiling(tile=48)},
}


# What depends on the kind of device is in the tiles; an image that goes whole is the networks' own business.
@pytest.mark.parametrize(
    ("kind", "dtype", "ways"),
    [("cuda", "fp16", ("whole", "tiled")), ("mps", "fp16", ("tiled",)), ("xpu", "bf16", ("tiled",))],
    ids=KINDS,
)
def test_a_picture_stays_on_its_device_and_waits_for_nothing(
    kind: str, dtype: str, ways: tuple[str, ...]
) -> None:
    with fake_device(kind):
        generator = OneStepGenerator.load("tiny", device=kind, dtype=dtype)
        for part in (generator.unet, generator.vae, generator.text):
            tensors = [*part.module.parameters(), *part.module.buffers()]
            assert {t.device.type for t in tensors} == {kind}
            assert {t.dtype for t in tensors if t.is_floating_point()} == {DTYPES[dtype]}
        lq = torch.empty(1, 3, 96, 64)
        for way in ways:
            out = generator.restore(lq, "a cat", **WAYS[way])
            assert (out.device.type, out.dtype, out.shape) == (kind, torch.float32, lq.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", color.METHODS)
def test_a_colour_fix_stays_on_its_device(kind: str, method: str) -> None:
    with fake_device(kind):
        image = torch.empty(1, 3, 64, 48, device=kind)
        out = color.apply(method, image, torch.empty(1, 3, 64, 48, device=kind), 0.5)
        assert (out.device.type, out.dtype, out.shape) == (kind, torch.float32, image.shape)
