"""The embedded model: it is whole, small, and does what its card says on pictures it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from osediff_core import OneStepGenerator, RestoreOptions, read_image, restore_picture
from osediff_core.backends.find_base import PACKAGED
from osediff_core.weights.checkpoint import read_weights
from osediff_core.weights.formats.osediff import guess_base

ROOT = Path(__file__).resolve().parents[3]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.png"))

pytestmark = pytest.mark.skipif(
    not PACKAGED["tiny"].is_dir(), reason="the embedded model is not in this checkout"
)


@pytest.fixture(scope="module")
def tiny() -> OneStepGenerator:
    return OneStepGenerator.load("tiny", dtype="fp32", device="cpu")


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [path for path in PACKAGED["tiny"].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_base_and_weights_are_two_files_as_with_sd21() -> None:
    weights = read_weights(PACKAGED["tiny"] / "osediff.safetensors")
    assert weights.rank_unet == weights.rank_vae == 32
    assert set(weights.conv_in) == {"weight", "bias"}
    assert weights.metadata["base"] == "osediff-tiny" == guess_base(weights.unet_lora, weights.conv_in)


def test_strength_zero_is_the_base_and_one_is_osediff(tiny: OneStepGenerator) -> None:
    lq = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    full = tiny.restore(lq)
    tiny.set_strength(0, 0)
    base = tiny.restore(lq)
    tiny.set_strength(1, 1)
    assert torch.equal(tiny.restore(lq), full)
    assert (base - full).abs().mean() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_it_keeps_the_picture_and_removes_noise(tiny: OneStepGenerator, path: Path) -> None:
    picture = read_image(path)
    restored = restore_picture(tiny, picture, RestoreOptions(scale=4))
    assert restored.size == (4 * picture.size[0], 4 * picture.size[1])
    # shrunk back, it is the input again but for the noise
    small = restored.rgb.reshape(picture.size[1], 4, picture.size[0], 4, 3).mean(axis=(1, 3))
    assert np.abs(small - picture.rgb).mean() < 0.04
    # in the flattest tenth of the picture, where only noise varies, neighbours differ less than in the input
    step = np.abs(np.diff(small, axis=1)).mean(axis=2), np.abs(np.diff(picture.rgb, axis=1)).mean(axis=2)
    blocks = [
        s[: s.shape[0] // 8 * 8, : s.shape[1] // 8 * 8].reshape(s.shape[0] // 8, 8, -1, 8).mean((1, 3))
        for s in step
    ]
    flat = blocks[0] <= np.quantile(blocks[0], 0.1)
    assert blocks[0][flat].mean() < blocks[1][flat].mean()


@pytest.mark.slow
def test_half_precision_is_close(tiny: OneStepGenerator) -> None:
    picture = read_image(PHOTOS[0])
    exact = restore_picture(tiny, picture, RestoreOptions(scale=2)).rgb
    for dtype in ("bf16", "fp16"):
        generator = OneStepGenerator.load("tiny", dtype=dtype, device="cpu")
        rgb = restore_picture(generator, picture, RestoreOptions(scale=2)).rgb
        assert -10 * np.log10(np.square(rgb - exact).mean()) > 30, dtype
