import math

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.errors import OptionError
from osediff_core.geometry import (
    crop_back,
    fill_transparent,
    pad_to_multiple,
    resize,
    resize_clipped,
    target_size,
)


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, (5, 3)), (4, (20, 12)), (2.5, (13, 8)), (0.1, (1, 1)), (1 / 3, (2, 1))]
)
def test_target_size_by_scale(scale, expected):
    assert target_size(5, 3, scale=scale) == expected


def test_target_size_by_size():
    assert target_size(5, 3, size=(7, 1)) == (7, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0},
        {"scale": -2},
        {"scale": math.nan},
        {"scale": math.inf},
        {"scale": 1e300},
        {"scale": 20000},
        {"size": (0, 4)},
        {"size": (10**6, 10**6)},
        {},
        {"scale": 2, "size": (4, 4)},
    ],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(OptionError):
        target_size(5, 3, **wrong)


@pytest.mark.parametrize("size", [(212, 148), (133, 93), (20, 11), (1, 1), (3, 200)])
def test_resize_is_pil_bicubic(size):
    array = np.random.default_rng(0).random((37, 53), dtype=np.float32)
    expected = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC))
    resized = resize(torch.from_numpy(array)[None, None], size)[0, 0].numpy()
    assert np.abs(resized - expected).max() < 1e-5


def test_clipped_resize_is_about_a_level_from_the_official_8_bit_resize():
    array = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    official = np.asarray(Image.fromarray(array).resize((124, 96)))
    image = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    ours = resize_clipped(image, (124, 96))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - official).max() < 1.2  # half a level of the second rounding, a bit more of the first


@pytest.mark.parametrize("multiple", [1, 4, 8, 64])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 3), (7, 8), (8, 16), (33, 5), (65, 64)])
def test_padding_fits_and_comes_off_again(height, width, multiple):
    image = torch.rand(2, 3, height, width)
    padded, crop = pad_to_multiple(image, multiple)
    assert padded.shape[-2] % multiple == 0 and padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    assert torch.equal(crop_back(padded, crop), image)


def test_padding_is_by_repeated_reflection():
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    padded, _ = pad_to_multiple(row, 8)
    assert padded[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2]
    assert torch.equal(padded[0, 0, 7], padded[0, 0, 0])  # one pixel high: replicated


def test_padding_agrees_with_torch_where_torch_can():
    image = torch.rand(1, 3, 13, 21)
    expected = torch.nn.functional.pad(image, (0, 3, 0, 3), mode="reflect")
    assert torch.equal(pad_to_multiple(image, 8)[0], expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 1), (16, 16), (37, 53)])
def test_hidden_colours_come_from_visible_ones(height, width):
    alpha = torch.zeros(1, 1, height, width)
    alpha[..., : (height + 1) // 2, : (width + 1) // 2] = 0.5
    rgb = torch.where(alpha > 0, torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1), torch.tensor(0.0))
    filled = fill_transparent(rgb, alpha)
    assert torch.allclose(filled, torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand_as(rgb), atol=1e-5)


def test_visible_colours_stay():
    rgb, alpha = torch.rand(1, 3, 20, 30), (torch.rand(1, 1, 20, 30) - 0.5).clamp_min(0)
    filled = fill_transparent(rgb, alpha)
    assert torch.equal(filled[(alpha > 0).expand_as(rgb)], rgb[(alpha > 0).expand_as(rgb)])
    nothing = torch.zeros(1, 1, 20, 30)
    assert torch.equal(fill_transparent(rgb, nothing), rgb)
