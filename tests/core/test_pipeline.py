import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core import Picture, RestoreOptions, color, restore_picture
from osediff_core.errors import OptionError
from osediff_core.geometry import resize_clipped

RNG = np.random.default_rng(0)


def picture_of(width, height, **more):
    return Picture(RNG.random((height, width, 3), dtype=np.float32), **more)


@pytest.mark.parametrize(
    ("size", "scale"), [((1, 1), 4), ((1, 13), 3), ((17, 9), 2.5), ((33, 20), 1), ((40, 30), 0.5)]
)
def test_any_size_and_scale(mini_generator, size, scale):
    restored = restore_picture(mini_generator, picture_of(*size), RestoreOptions(scale=scale))
    assert restored.size == (int(size[0] * scale + 0.5), int(size[1] * scale + 0.5))
    assert np.isfinite(restored.rgb).all() and restored.rgb.dtype == np.float32


def test_target_size_wins_over_scale(mini_generator):
    assert restore_picture(mini_generator, picture_of(9, 8), RestoreOptions(size=(31, 18))).size == (31, 18)


@pytest.mark.parametrize("color_fix", ["none", "adain", "wavelet"])
def test_it_is_the_generator_between_resize_and_colour_fix(mini_generator, color_fix):
    levels = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    picture = Picture(levels.astype(np.float32) / 255)
    options = RestoreOptions(scale=2, color_fix=color_fix, prompt="a cat")
    restored = restore_picture(mini_generator, picture, options)

    def cut_to_8_bits(image):
        return (image * 255 + 1e-4).floor() / 255

    lq = resize_clipped(torch.from_numpy(picture.rgb).permute(2, 0, 1)[None].contiguous(), (48, 32))
    image = cut_to_8_bits((mini_generator.restore(lq * 2 - 1, "a cat") + 1) / 2)
    expected = cut_to_8_bits(color.apply(color_fix, image, lq))
    assert np.array_equal(restored.rgb, expected[0].permute(1, 2, 0).numpy())


def test_grey_stays_grey_and_the_kind_of_file_stays(mini_generator):
    grey = np.repeat(RNG.random((12, 10, 1), dtype=np.float32), 3, axis=2)
    picture = Picture(grey, bits=16, single_channel=True, icc=b"profile", notes=("note",))
    restored = restore_picture(mini_generator, picture, RestoreOptions(scale=2))
    assert restored.is_grey and restored.samples().ndim == 2 and restored.samples().dtype == np.uint16
    assert (restored.rgb == restored.rgb[..., :1]).all()
    assert (restored.icc, restored.notes) == (picture.icc, picture.notes)
    colourless = restore_picture(mini_generator, Picture(grey), RestoreOptions(scale=2))
    assert colourless.is_grey and not colourless.single_channel


def test_alpha_is_enlarged_and_hidden_colours_do_not_matter(mini_generator):
    alpha = np.zeros((12, 16), np.float32)
    alpha[3:9, 4:12] = 1
    black, pink = (picture_of(16, 12).rgb for _ in range(2))
    visible = RNG.random((12, 16, 3), dtype=np.float32)
    black = np.where(alpha[..., None] > 0, visible, np.float32(0))
    pink = np.where(alpha[..., None] > 0, visible, np.array([1, 0, 1], np.float32))
    first, second = (
        restore_picture(mini_generator, Picture(rgb, alpha), RestoreOptions(scale=2)) for rgb in (black, pink)
    )
    assert np.array_equal(first.rgb, second.rgb)
    expected = Image.fromarray(alpha).resize((32, 24), Image.Resampling.BICUBIC)
    assert np.abs(first.alpha - np.clip(np.asarray(expected), 0, 1)).max() < 0.1
    assert first.alpha[12, 16] == 1 and first.alpha[0, 0] == 0


def test_tiles_are_reported_and_the_seed_counts(mini_generator):
    picture, seen = picture_of(32, 24), []
    tiled = RestoreOptions(scale=4, tile=8, overlap=4)
    restored = restore_picture(mini_generator, picture, tiled, lambda *done_total: seen.append(done_total))
    assert restored.size == (128, 96) and seen and seen[-1][0] == seen[-1][1] > 1

    def sampled(seed):
        return restore_picture(
            mini_generator, picture, RestoreOptions(scale=1, sample_posterior=True, seed=seed)
        ).rgb

    assert np.array_equal(sampled(1), sampled(1)) and not np.array_equal(sampled(1), sampled(2))


@pytest.mark.parametrize(
    "wrong", [{"scale": 0}, {"scale": 1e9}, {"size": (0, 3)}, {"color_fix": "hsv"}, {"tile": 4, "overlap": 4}]
)
def test_impossible_options_are_refused(mini_generator, wrong):
    with pytest.raises(OptionError):
        restore_picture(mini_generator, picture_of(40, 40), RestoreOptions(**{"scale": 1, **wrong}))
