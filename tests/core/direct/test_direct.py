"""AdcSR, a method that is one network: files, sizes, tiles, colours, and what it has not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_models.methods import write_adcsr
from mini_models.networks import MiniModel
from refusals import refused
from torch import Tensor

from osediff_core import OneStepGenerator, Picture, RestoreOptions, load_model, restore_picture
from osediff_core.direct.restorer import DirectRestorer, upscale
from osediff_core.errors import CheckpointError, OptionError
from osediff_core.ports import ImageRestorer
from osediff_core.tiles.unet import UNetTiling
from osediff_core.weights.describe import describe


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adcsr")
    write_adcsr(folder)
    return folder


@pytest.fixture(scope="module")
def restorer(files: Path) -> DirectRestorer:
    found = load_model(
        weights=files / "net_params_200.pkl", decoder=files / "halfDecoder.ckpt", dtype="fp32", device="cpu"
    )
    assert isinstance(found, DirectRestorer) and isinstance(found, ImageRestorer)
    return found


def lq(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.mark.parametrize("size", [(32, 48), (17, 30), (1, 1), (5, 33)])
@torch.inference_mode()
def test_any_size(size: tuple[int, int], restorer: DirectRestorer) -> None:
    image = upscale(restorer, lq(*size))
    assert image.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert torch.isfinite(image).all() and image.abs().max() <= 1


@torch.inference_mode()
def test_it_has_the_colours_of_its_input(restorer: DirectRestorer) -> None:
    small = 0.3 * lq(32, 32) + torch.tensor([0.2, -0.1, 0.0]).view(1, 3, 1, 1)
    image = upscale(restorer, small)
    for channel in range(3):
        for of in (torch.mean, torch.std):
            torch.testing.assert_close(of(image[0, channel]), of(small[0, channel]), rtol=0, atol=5e-3)


class Nearest:
    """The plainest network from image to image, whose tiles must fit together without a seam."""

    scale, multiple, dtype = 4, 16, torch.float32

    def fp32(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, lq: Tensor) -> Tensor:
        assert lq.shape[-2] % 16 == lq.shape[-1] % 16 == 0
        return torch.nn.functional.interpolate(lq, scale_factor=4.0)

    def finish(self, image: Tensor, lq: Tensor) -> Tensor:
        assert image.shape[-1] == 4 * lq.shape[-1]
        return image


@pytest.mark.parametrize("size", [(64, 80), (61, 200), (16, 90)])
@pytest.mark.parametrize(
    "tiling", [UNetTiling(16, 8), UNetTiling(23, None), UNetTiling(16, 4, "balanced"), UNetTiling(8, 0)]
)
@torch.inference_mode()
def test_tiles_fit_together(size: tuple[int, int], tiling: UNetTiling, restorer: DirectRestorer) -> None:
    small, done = lq(*size), []
    found = upscale(Nearest(), small, tiling=tiling, progress=lambda *step: done.append(step))
    expected = torch.nn.functional.interpolate(small, scale_factor=4.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert done[-1][0] == done[-1][1] > 1
    if size == (64, 80):
        in_tiles = upscale(restorer, small, tiling=tiling)
        assert in_tiles.shape == expected.shape and torch.isfinite(in_tiles).all()


@torch.inference_mode()
def test_tiles_only_where_they_are_needed(restorer: DirectRestorer) -> None:
    small = lq(32, 48)
    assert torch.equal(upscale(restorer, small, tiling=UNetTiling(96)), upscale(restorer, small))
    with refused(OptionError, "overlap"):
        upscale(restorer, small, tiling=UNetTiling(8, -1))


@torch.inference_mode()
def test_pictures(restorer: DirectRestorer) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 24, 3)).astype(np.float32) / 255
    picture = Picture(pixels, alpha=np.linspace(0, 1, 480, dtype=np.float32).reshape(20, 24))
    fourfold = restore_picture(restorer, picture, RestoreOptions(scale=4, color_fix="none"))
    assert fourfold.size == (96, 80) and fourfold.alpha is not None
    double = restore_picture(restorer, picture, RestoreOptions(scale=2, color_fix="none"))
    assert double.size == (48, 40)
    assert np.abs(double.rgb - fourfold.rgb.reshape(40, 2, 48, 2, 3).mean((1, 3))).mean() < 0.03, (
        "of the same result"
    )
    assert restore_picture(restorer, picture, RestoreOptions(size=(50, 31))).size == (50, 31)
    with refused(OptionError, "AdcSR reads no prompt"):
        restore_picture(restorer, picture, RestoreOptions(prompt="a cat"))


@torch.inference_mode()
def test_half_precision(files: Path, restorer: DirectRestorer) -> None:
    half = load_model(
        weights=files / "net_params_200.pkl", decoder=files / "halfDecoder.ckpt", dtype="bf16", device="cpu"
    )
    assert half.dtype == torch.bfloat16
    assert (upscale(half, lq(32, 32)) - upscale(restorer, lq(32, 32))).abs().mean() < 0.05


def test_files_and_options_that_do_not_belong_together(files: Path, mini: MiniModel, tmp_path: Path) -> None:
    weights, decoder = files / "net_params_200.pkl", files / "halfDecoder.ckpt"
    facts = describe(weights)
    assert (
        facts["kind"] == "adcsr" and facts["method"]["base"] == "none" and facts["method"]["timestep"] is None
    )
    with refused(CheckpointError, "one of AdcSR's two files", "--decoder"):
        load_model(weights=weights)
    with refused(CheckpointError, "is OSEDiff weights", "not a light decoder"):
        load_model(weights=weights, decoder=mini.weights)
    with refused(CheckpointError, "network of its own"):
        OneStepGenerator.load(mini.base, weights)
    for wrong in ({"fidelity": 0.5}, {"strength": 0.5}, {"sliders": {"pixel": 1.0}}):
        with refused(OptionError, "AdcSR has no strength, no fidelity and no sliders"):
            load_model(weights=weights, decoder=decoder, **wrong)
    content = torch.load(weights, weights_only=True)
    del content["module.body.2.resnets.0.conv1.bias"]
    torch.save(content, tmp_path / "short.pkl")
    with refused(
        CheckpointError, "short.pkl is not whole", "1 missing (decoder.mid_block.resnets.0.conv1.bias)"
    ):
        load_model(weights=tmp_path / "short.pkl", decoder=decoder)
    content = {name: tensor.repeat_interleave(2, 0) for name, tensor in content.items()}
    torch.save(content, tmp_path / "wide.pkl")
    with refused(CheckpointError, "widths of 48, 96, 96, 96"):
        load_model(weights=tmp_path / "wide.pkl", decoder=decoder)
