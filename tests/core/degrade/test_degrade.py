import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from degrade_pictures import synthetic

from osediff_core.degrade import (
    PRESETS,
    Blur,
    Jpeg,
    Noise,
    Resize,
    Sharpen,
    apply,
    degrade,
    degrade_pair,
    draw,
    jpeg,
    operations,
    sharpen,
)
from osediff_core.errors import ImageError, OptionError

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the batch ----


@pytest.mark.parametrize("preset", PRESETS)
def test_a_picture_does_not_depend_on_its_batch(preset):
    images = torch.cat([synthetic(kind, 64) for kind in range(3)])
    lq, degradations = degrade(images, preset, 4, seed=7)
    again, same = degrade(images, preset, 4, seed=7)
    assert torch.equal(lq, again) and degradations == same
    other = images.flip(0)
    other[0] = images[0]
    assert torch.equal(degrade(other[:1], preset, 4, seed=7)[0], lq[:1])
    for index, degradation in enumerate(degradations):
        assert torch.equal(apply(images[index : index + 1], degradation), lq[index : index + 1])
        assert draw(preset, (64, 64), 4, 7, index).small() == degradation
        assert torch.equal(
            degrade(images[index : index + 1], preset, 4, 7, first=index)[0], lq[index : index + 1]
        )
    assert len(set(degradations)) == 3


def test_seeds_of_any_length_give_their_own_draws():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**64 - 1)
    draws = {draw("realesrgan", (64, 64), 4, seed, index) for seed in seeds for index in range(3)}
    assert len(draws) == 15


def test_the_draw_leaves_other_generators_alone():
    images = torch.rand(2, 3, 32, 32)
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(4), np.random.rand(4)
    torch.manual_seed(3)
    np.random.seed(3)
    degrade(images)
    assert torch.equal(torch.rand(4), expected[0]) and (np.random.rand(4) == expected[1]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 5), (50, 31)])
@pytest.mark.parametrize("scale", [1, 1.5, 4, 16])
def test_any_size_and_scale(size, scale):
    image = torch.rand(1, 3, *size)
    expected = tuple(max(1, math.floor(side / scale + 0.5)) for side in size)
    for preset, seed in itertools.product(PRESETS, range(5)):
        lq, _ = degrade(image, preset, scale, seed)
        back, _ = degrade(image, preset, scale, seed, resize_back=True)
        assert lq.shape == (1, 3, *expected) and back.shape == image.shape
        for picture in (lq, back):
            assert torch.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1


def test_a_low_quality_picture_is_what_an_8_bit_file_holds():
    for seed in range(8):
        levels = degrade(synthetic(seed), "realesrgan", 4, seed)[0] * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "codeformer"])
def test_resize_back_enlarges_the_very_same_picture(preset):
    image = synthetic(1)
    lq, _ = degrade(image, preset, 4, seed=5)
    back, (degradation,) = degrade(image, preset, 4, seed=5, resize_back=True)
    assert degradation.back.size == (128, 128)
    assert torch.equal(back, operations.resize_to(lq, (128, 128), degradation.back.mode).clamp(0, 1))


def test_codeformer_goes_back_from_its_own_small_size():
    """As the official code does; without the way back it has the target size like all others."""
    image = synthetic(1)
    back, (whole,) = degrade(image, "codeformer", 4, seed=5, resize_back=True)
    lq, (small,) = degrade(image, "codeformer", 4, seed=5)
    assert [type(step) for step in whole.steps] == [Blur, Resize, Noise, Jpeg]
    assert whole.steps[1].size != (32, 32) and small.steps[:-1] == whole.steps
    assert back.shape == image.shape and lq.shape[-2:] == (32, 32)
    assert not torch.equal(back * 255, (back * 255).round())


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_pair_to_train_with(preset, official):
    image = synthetic(3, 64)
    lq, hq, degradation = degrade_pair(image, preset, 4, 7, 2, official)
    assert lq.shape == hq.shape == image.shape and lq.min() >= 0 and lq.max() <= 1
    assert torch.equal(hq, sharpen(image) if preset == "bsrgan_plus" else image)
    alone, (same,) = degrade(image, preset, 4, 7, resize_back=True, first=2, official=official)
    assert torch.equal(lq, alone) and degradation == same
    assert torch.equal(apply(image, degradation), lq)
    assert (degradation.steps[0] == Sharpen()) == (preset == "bsrgan_plus")


def test_sharpening_leaves_flat_areas_and_strengthens_edges():
    image = torch.full((1, 3, 80, 80), 0.4)
    assert torch.allclose(sharpen(image), image, atol=1e-5)
    image[..., 40:] = 0.6
    sharp = sharpen(image)
    assert sharp[..., 41].mean() > 0.62 and sharp[..., 38].mean() < 0.38
    assert sharpen(torch.rand(2, 3, 5, 7)).shape == (2, 3, 5, 7)


def test_official_changes_jpeg_and_rounding_and_nothing_else():
    image, whole_levels = synthetic(1), 0
    for seed in range(30):
        ours, official = (
            draw("realesrgan", (128, 128), 4, seed),
            draw("realesrgan", (128, 128), 4, seed, 0, True),
        )
        assert official.round_last and not ours.round_last and official.back == ours.back
        for step, other in zip(ours.steps, official.steps, strict=True):
            if isinstance(step, Jpeg):
                assert other.differentiable and not step.differentiable and 30 <= other.quality <= 95
                whole_levels += other.quality == int(other.quality)
            else:
                assert step == other
        levels = apply(image, official) * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert whole_levels == 0
    for preset in ("codeformer", "bsrgan", "bsrgan_plus"):
        assert draw(preset, (64, 64), 4, 3, 0, True) == draw(preset, (64, 64), 4, 3)
    assert not draw("light", (64, 64), 4, 3, 0, True).steps[1].antialias


def test_other_inputs():
    image = synthetic(1, 32)
    assert torch.equal(degrade(image.double())[0], degrade(image)[0])
    assert torch.equal(degrade(image * 4 - 1)[0], degrade((image * 4 - 1).clamp(0, 1))[0])
    assert not degrade(image.clone().requires_grad_())[0].requires_grad


def test_refusals():
    image = torch.rand(1, 3, 8, 8)
    for shape in [(3, 8, 8), (1, 4, 8, 8), (0, 3, 8, 8), (1, 3, 0, 8)]:
        with pytest.raises(ImageError):
            degrade(torch.zeros(shape))
    with pytest.raises(ImageError, match="one picture, not of 2"):
        degrade_pair(torch.rand(2, 3, 8, 8))
    with pytest.raises(ImageError, match="float"):
        degrade((image * 255).to(torch.uint8))
    with pytest.raises(ImageError, match="NaN"):
        degrade(image / 0 * 0)
    with pytest.raises(OptionError, match="realesrgan, light, jpeg, blur, codeformer, bsrgan"):
        degrade(image, "heavy")
    for scale in (0.5, math.nan, math.inf):
        with pytest.raises(OptionError, match="at least 1"):
            degrade(image, scale=scale)
    with pytest.raises(OptionError, match="seed"):
        degrade(image, seed=-1)
    with pytest.raises(ImageError, match="draw one for its size"):
        apply(image, draw("light", (9, 8)))
    with pytest.raises(ImageError, match="JPEG"):
        jpeg.compress_jpeg(torch.zeros(1, 3, 1, 70000), 50)


# ---- the record ----


def test_the_record_in_words_and_in_json():
    degradation = draw("realesrgan", (512, 384), 4, seed=0)
    text = degradation.describe()
    assert (
        text.startswith("realesrgan, 512x384: ") and "\n" not in text and "JPEG" in text and "128x96" in text
    )
    data = json.loads(json.dumps(degradation.as_dict()))
    assert [step["step"] for step in data["steps"]] == [
        type(step).__name__.lower() for step in degradation.steps
    ]
    assert data["source"] == [512, 384] and data["back"]["size"] == [512, 384]
    for seed in range(50):
        json.dumps(draw("realesrgan", (64, 64), 4, seed).as_dict())


def test_the_recorded_sizes_are_the_real_ones():
    for seed in range(150):
        degradation = draw("realesrgan", (61, 45), 4, seed)
        image = torch.rand(1, 3, 45, 61)
        for step in degradation.steps:
            if isinstance(step, Resize):
                part = replace(
                    degradation, steps=(step,), source=(image.shape[-1], image.shape[-2]), back=None
                )
                image = apply(image, part)
                assert image.shape[-2:] == (step.size[1], step.size[0])
