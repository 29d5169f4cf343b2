from pathlib import Path

import numpy as np
import pytest
import torch

from osediff_core import color
from osediff_core.cielab import lab_to_rgb, rgb_to_lab
from osediff_core.errors import OptionError

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "color_fix.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return dict(data)


def as_image(array):
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", ["adain", "wavelet"])
def test_parity_with_the_official_code(golden, name):
    fixed = color.apply(name, as_image(golden["target"]), as_image(golden["source"]))
    levels = (fixed[0].permute(1, 2, 0) * 255).numpy()
    assert np.abs(np.rint(levels) - golden[name]).max() <= 1
    # the official code truncates; done alike, all but float noise at whole levels is equal
    assert (np.floor(levels + 1e-4) != golden[name]).mean() < 1e-3


@pytest.mark.parametrize("name", color.METHODS)
def test_an_image_with_the_right_colours_stays(name):
    image = torch.rand(2, 3, 40, 70)
    assert torch.allclose(color.apply(name, image, image), image, atol=1e-5)


def test_adain_matches_mean_and_spread():
    content, style = torch.rand(2, 3, 50, 60) * 0.3, torch.rand(2, 3, 20, 20) * 0.5 + 0.2
    fixed = color.adain(content, style)
    assert torch.allclose(fixed.mean((-2, -1)), style.mean((-2, -1)), atol=1e-5)
    assert torch.allclose(fixed.std((-2, -1)), style.std((-2, -1)), rtol=1e-3)


def test_wavelet_takes_a_constant_shift_away():
    image = torch.rand(1, 3, 64, 48)
    shift = torch.tensor([0.1, -0.2, 0.05]).view(1, 3, 1, 1)
    assert torch.allclose(color.wavelet(image + shift, image), image, atol=1e-5)


def test_lab_of_known_colours():
    """Values of CIE Lab under D65, as any colour calculator gives them."""
    colours = {
        (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
        (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
        (0.0, 1.0, 0.0): (87.74, -86.18, 83.18),
        (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
        (0.2, 0.4, 0.6): (42.01, -0.15, -32.85),
    }
    rgb = torch.tensor(list(colours)).T[None, :, :, None]
    expected = torch.tensor(list(colours.values())).T[None, :, :, None]
    assert torch.allclose(rgb_to_lab(rgb), expected, atol=0.02)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-5)


def test_lab_takes_a_colour_cast_away_and_keeps_the_picture():
    style = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 68, 68), 5, 1)
    cast = (style * torch.tensor([1.1, 1.0, 0.85]).view(1, 3, 1, 1)).clamp(0, 1)
    before, after = (cast - style).abs().mean(), (color.apply("lab", cast, style) - style).abs().mean()
    assert after < 0.2 * before


def test_the_weight_blends():
    content, style = torch.rand(1, 3, 20, 30) * 0.5, torch.rand(1, 3, 20, 30)
    fixed = color.apply("adain", content, style)
    assert torch.equal(color.apply("adain", content, style, 0.0), content)
    half = color.apply("adain", content, style, 0.5)
    assert torch.allclose(half, ((content + color.adain(content, style)) / 2).clamp(0, 1), atol=1e-6)
    assert not torch.allclose(half, fixed)


@pytest.mark.parametrize("name", color.METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1), (17, 100)])
def test_any_size_gives_finite_values_in_range(name, size):
    fixed = color.apply(name, torch.rand(1, 3, *size), torch.rand(1, 3, *size))
    assert fixed.shape == (1, 3, *size)
    assert torch.isfinite(fixed).all() and fixed.min() >= 0 and fixed.max() <= 1


def test_unknown_method_and_unequal_shapes_are_refused():
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(OptionError, match="adain, wavelet, lab, none"):
        color.apply("hsv", image, image)
    with pytest.raises(OptionError, match="shape"):
        color.wavelet(image, torch.rand(1, 3, 8, 9))
