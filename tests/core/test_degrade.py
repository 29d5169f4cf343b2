import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from osediff_core.degrade import PRESETS, Blur, Jpeg, Noise, Resize, apply, degrade, draw, kernels, operations
from osediff_core.errors import ImageError, OptionError


def synthetic(kind, size=128):
    """A picture (1, 3, size, size) of shading, flat patches with hard edges, and in odd kinds a fine texture."""
    rng = np.random.default_rng(kind)
    y, x = np.mgrid[:size, :size] / size
    picture = np.stack(
        [0.5 + 0.3 * np.cos(3 * x + phase) * np.cos(2 * y - phase) for phase in (0.2, 0.9, 1.7)]
    )
    for _ in range(14):
        left, top, right, bottom = (rng.uniform(0, 1, 4) * size).astype(int)
        picture[:, min(top, bottom) : max(top, bottom), min(left, right) : max(left, right)] = rng.uniform(
            0, 1, (3, 1, 1)
        )
    if kind % 2:
        picture += 0.08 * np.sin(2 * math.pi * (0.31 * x + 0.17 * y) * size)
    levels = np.round(picture.clip(0, 1) * 255)
    return torch.from_numpy(levels).float()[None] / 255


def psnr(image, other):
    return float(-10 * torch.log10(((image - other) ** 2).mean()))


def high_frequencies(image):
    """Spectral power above half the Nyquist frequency, and its share of the whole; without the mean."""
    grey = image[0].mean(0)
    power = torch.fft.fft2(grey - grey.mean()).abs() ** 2
    frequency = [torch.fft.fftfreq(side) for side in grey.shape]
    high = torch.hypot(frequency[0][:, None], frequency[1][None]) > 0.25
    return float(power[high].sum()), float(power[high].sum() / power.sum())


def steps_of(preset, count, kind, size=(512, 512)):
    draws = (draw(preset, size, 4, seed) for seed in range(count))
    return [[step for step in one.steps if isinstance(step, kind)] for one in draws]


def assert_share(hits, trials, expected):
    """Within four standard deviations of a binomial share."""
    spread = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) <= 4 * spread, (hits / trials, expected)


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
        assert replace(draw(preset, (64, 64), 4, 7, index), back=None) == degradation
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
    for preset, seed in itertools.product(PRESETS, range(12)):
        lq, _ = degrade(image, preset, scale, seed)
        back, _ = degrade(image, preset, scale, seed, resize_back=True)
        assert lq.shape == (1, 3, *expected) and back.shape == image.shape
        for picture in (lq, back):
            assert torch.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1


def test_a_low_quality_picture_is_what_an_8_bit_file_holds():
    for seed in range(8):
        levels = degrade(synthetic(seed), "realesrgan", 4, seed)[0] * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_resize_back_enlarges_the_very_same_picture(preset):
    image = synthetic(1)
    lq, _ = degrade(image, preset, 4, seed=5)
    back, (degradation,) = degrade(image, preset, 4, seed=5, resize_back=True)
    assert degradation.back.size == (128, 128)
    assert torch.equal(back, operations.resize_to(lq, (128, 128), degradation.back.mode).clamp(0, 1))


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
    with pytest.raises(ImageError, match="float"):
        degrade((image * 255).to(torch.uint8))
    with pytest.raises(ImageError, match="NaN"):
        degrade(image / 0 * 0)
    with pytest.raises(OptionError, match="realesrgan, light, jpeg, blur"):
        degrade(image, "heavy")
    for scale in (0.5, math.nan, math.inf):
        with pytest.raises(OptionError, match="at least 1"):
            degrade(image, scale=scale)
    with pytest.raises(OptionError, match="seed"):
        degrade(image, seed=-1)
    with pytest.raises(ImageError, match="draw one for its size"):
        apply(image, draw("light", (9, 8)))
    with pytest.raises(ImageError, match="JPEG"):
        operations.compress_jpeg(torch.zeros(1, 3, 1, 70000), 50)


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


# ---- what the presets do ----


def test_blur_takes_high_frequencies_and_keeps_the_mean():
    for seed in range(10):
        image = synthetic(seed)
        blurred, (degradation,) = degrade(image, "blur", 1, seed)
        assert [type(step) for step in degradation.steps] == [Blur]
        assert high_frequencies(blurred)[0] < 0.5 * high_frequencies(image)[0]
        assert float((blurred.mean() - image.mean()).abs()) < 0.01


def test_jpeg_is_worse_at_lower_quality():
    image = synthetic(1)
    quality = [psnr(image, operations.compress_jpeg(image, q)) for q in (30, 50, 70, 95)]
    assert quality == sorted(quality) and quality[0] < quality[-1] - 4
    for seed in range(10):
        assert [type(step) for step in draw("jpeg", (64, 64), 1, seed).steps] == [Jpeg]


def test_light_is_lighter_than_realesrgan():
    def mean_psnr(preset):
        results = [degrade(synthetic(seed), preset, 4, seed, resize_back=True)[0] for seed in range(24)]
        return np.mean([psnr(synthetic(seed), result) for seed, result in enumerate(results)])

    assert mean_psnr("light") > mean_psnr("realesrgan") + 1


def test_brightness_is_kept_on_average():
    for preset in PRESETS:
        shifts = [
            float((degrade(synthetic(seed), preset, 4, seed)[0].mean() - synthetic(seed).mean()).abs())
            for seed in range(12)
        ]
        assert np.mean(shifts) < 0.01


# Means and their standard errors over 12000 draws of the official operations (BasicSR 1.4.2), chained as in OSEDiff's
# dataloader, on these pictures, enlarged back to 128 px; with Pillow's JPEG. With its own DiffJPEG, which rings at
# dark borders of small pictures, it is 16.80, 0.0100, 0.1996 and 0.0135.
OFFICIAL = {
    "psnr": (16.868, 0.010),
    "hf_share": (0.00965, 0.00008),
    "std": (0.1950, 0.0002),
    "abs_dx": (0.01179, 0.00004),
}


def measure(hq, result):
    return {
        "psnr": psnr(hq, result),
        "hf_share": high_frequencies(result)[1],
        "std": float(result.std()),
        "abs_dx": float((result[..., 1:] - result[..., :-1]).abs().mean()),
    }


def test_statistics_agree_with_the_official_code():
    count = 240
    rows = []
    for seed in range(count):
        hq = synthetic(seed % 4)
        rows.append(measure(hq, degrade(hq, "realesrgan", 4, seed, resize_back=True)[0]))
    for key, (mean, error) in OFFICIAL.items():
        values = np.array([row[key] for row in rows])
        allowed = 4 * math.hypot(values.std() / math.sqrt(count), error)
        assert abs(values.mean() - mean) < allowed, (key, values.mean(), mean, allowed)


# ---- what is drawn ----


def test_realesrgan_draws_the_official_shares():
    count = 2000
    blurs, noises = steps_of("realesrgan", count, Blur), steps_of("realesrgan", count, Noise)
    jpegs = steps_of("realesrgan", count, Jpeg)
    assert all(len(pair) == 2 for pair in noises + jpegs)
    first = [blur[0].kernel for blur in blurs]
    assert_share(sum(kernel.family == "sinc" for kernel in first), count, 0.1)
    for family, isotropic, weight in [
        ("gaussian", True, 0.45),
        ("gaussian", False, 0.25),
        ("generalised", True, 0.12),
        ("generalised", False, 0.03),
        ("plateau", True, 0.12),
        ("plateau", False, 0.03),
    ]:
        hits = sum(kernel.family == family and (kernel.angle is None) == isotropic for kernel in first)
        assert_share(hits, count, 0.9 * weight)
    for size in range(7, 22, 2):
        assert_share(sum(kernel.size == size for kernel in first), count, 1 / 8)
    sigmas = [sigma for kernel in first if kernel.sigmas for sigma in kernel.sigmas]
    assert 0.2 <= min(sigmas) < 0.25 and 2.95 < max(sigmas) <= 3 and abs(np.mean(sigmas) - 1.6) < 0.1
    plateau = [kernel.beta for kernel in first if kernel.family == "plateau"]
    assert_share(sum(beta == 1 for beta in plateau), len(plateau), 0.5)
    assert_share(sum(len(blur) >= 2 for blur in blurs), count, 1 - 0.2 * 0.2)
    for place, (gaussian, poisson) in enumerate([((1, 30), (0.05, 3)), ((1, 25), (0.05, 2.5))]):
        assert_share(sum(pair[place].kind == "gaussian" for pair in noises), count, 0.5)
        assert_share(sum(pair[place].grey for pair in noises), count, 0.4)
        for kind, (low, high) in (("gaussian", gaussian), ("poisson", poisson)):
            strengths = [pair[place].strength for pair in noises if pair[place].kind == kind]
            assert low <= min(strengths) and high * 0.97 < max(strengths) <= high
        qualities = [pair[place].quality for pair in jpegs]
        assert min(qualities) == 30 and max(qualities) == 95


def test_realesrgan_draws_the_official_resizes():
    count = 2000
    draws = [draw("realesrgan", (512, 512), 4, seed) for seed in range(count)]
    first = [next((s for s in one.steps if isinstance(s, Resize) and s.factor), None) for one in draws]
    assert_share(sum(step is None for step in first), count, 0.1)
    assert_share(sum(step is not None and step.factor > 1 for step in first), count, 0.2)
    assert all(0.15 <= step.factor <= 1.5 for step in first if step)
    near = [one.steps[[isinstance(s, Jpeg) for s in one.steps].index(True) :] for one in draws]
    near = [next((s.size[0] for s in steps if isinstance(s, Resize)), 128) for steps in near]
    assert min(near) >= 38 and max(near) <= 153
    assert_share(sum(size == 128 for size in near), count, 0.3 + 0.3 / 25.6 / 2 + 0.4 / 89.6 / 2)
    for mode in ("area", "bilinear", "bicubic"):
        assert_share(sum(one.back.mode == mode for one in draws), count, 1 / 3)
        modes = [step.mode for step in first if step]
        assert_share(modes.count(mode), len(modes), 1 / 3)
    last = [one.steps[-1] for one in draws]
    sinc = [step for step in last if isinstance(step, Blur)]
    assert_share(len(sinc), count, 0.5 * 0.8)
    assert all(math.pi / 3 <= step.kernel.cutoff <= math.pi for step in sinc)
    assert_share(sum(isinstance(step, Jpeg) for step in last), count, 0.5 + 0.5 * 0.2 * 0.31)


# ---- the operations ----


def test_kernels_sum_to_one_and_lie_along_their_axes():
    for size in (7, 13, 21):
        for kernel in (
            kernels.gaussian(size, (1.7, 0.4), 0.3),
            kernels.generalised(size, (0.2, 3.0), 1.0, 0.5),
            kernels.plateau(size, (2.0, 2.0), 0.0, 1.6),
            kernels.sinc(size, math.pi),
        ):
            assert kernel.dtype == np.float64 and kernel.shape == (size, size)
            assert abs(kernel.sum() - 1) < 1e-12 and np.allclose(kernel, kernel[::-1, ::-1])
    wide = kernels.gaussian(13, (3.0, 0.5))
    assert wide[6, 9] > 100 * wide[9, 6]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 7), (40, 30)])
def test_filter_reflects_as_often_as_needed(size):
    image, kernel = torch.rand(1, 3, *size), kernels.gaussian(21, (3.0, 1.0), 0.4)
    padded = np.pad(image[0].numpy(), ((0, 0), (10, 10), (10, 10)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (21, 21), axis=(1, 2))
    expected = torch.from_numpy((windows * kernel).sum((-1, -2)))[None].float()
    torch.testing.assert_close(operations.correlate(image, kernel), expected, rtol=0, atol=1e-5)


def test_noise_has_the_strength_that_it_says():
    image = torch.full((1, 3, 128, 128), 0.5)
    for grey in (False, True):
        noise = operations.add_gaussian_noise(image, 12.0, grey, seed=1) - image
        assert abs(float(noise.std()) * 255 - 12) < 0.3
        assert bool((noise[:, 0] == noise[:, 1]).all()) == grey
    ramp = torch.linspace(0, 1, 256).repeat(3, 256, 1)[None]
    noise = operations.add_poisson_noise(ramp, 0.5, False, seed=1) - ramp
    for level in (64, 128, 192):
        expected = 0.5 * math.sqrt(level / 255 / 256)
        assert abs(float(noise[..., level].std()) / expected - 1) < 0.1


# ---- the official numbers ----


@pytest.fixture(scope="module")
def official(request):
    folder: Path = request.getfixturevalue("reference_dir")
    path = folder / "golden" / "degrade_ops.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the reference data")
    with np.load(path) as data:
        return dict(data)


EXACT = {0.628319: math.pi / 5, 1.047198: math.pi / 3, 3.141593: math.pi}  # what the names round


def kernel_of_name(name):
    """ "generalized_aniso_k7_sx1.7_sy0.6_theta0.2pi_beta0.5" -> the kernel by our functions."""
    found = re.findall(r"_(k|sx|sy|s|theta|beta|omega|pad)(-?[\d.]+)(pi)?", name)
    value = {key: float(number) * (math.pi if pi else 1) for key, number, pi in found}
    size = int(value["k"])
    if name.startswith("sinc"):
        kernel = kernels.sinc(size, EXACT.get(value["omega"], value["omega"]))
        return np.pad(kernel, (int(value.get("pad", size)) - size) // 2)
    sigmas = (value.get("sx", value.get("s")), value.get("sy", value.get("s")))
    angle = value.get("theta", 0.0)
    if name.startswith("generalized"):
        return kernels.generalised(size, sigmas, angle, value["beta"])
    if name.startswith("plateau"):
        return kernels.plateau(size, sigmas, angle, value["beta"])
    return kernels.gaussian(size, sigmas, angle)


def picture_of(official, key="image_u8"):
    return torch.from_numpy(official[key]).permute(2, 0, 1)[None].float() / 255


def assert_near(ours, expected, tolerance=1e-5):
    torch.testing.assert_close(ours[0], torch.from_numpy(expected), rtol=0, atol=tolerance)


def test_kernels_equal_the_official_ones(official):
    names = [name for name in official if name.startswith("kernel/")]
    assert len(names) > 40
    for name in names:
        np.testing.assert_allclose(
            kernel_of_name(name.removeprefix("kernel/")), official[name], rtol=0, atol=1e-12, err_msg=name
        )


def test_filters_equal_the_official_ones(official):
    image = picture_of(official)
    for name in ("aniso_k21_sx1.7_sy0.6_theta0.2pi", "sinc_k21_omega1.047198"):
        assert_near(operations.correlate(image, kernel_of_name(name)), official[f"filter2D/{name}"])
    small = kernel_of_name("iso_k7_s1.7")  # the official code pads it with zeros to 21
    assert_near(operations.correlate(image, small), official["filter2D/iso_k7_padded21"])
    wide = operations.correlate(image, kernel_of_name("aniso_k41_sx12_sy3_theta-0.7"))
    expected = official["cv2_filter2D/aniso_k41 (HWC float32, BORDER_REFLECT_101)"]
    assert_near(wide, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_resizes_equal_the_official_ones(official, mode):
    image = picture_of(official)
    for factor in (0.37, 1.23):
        assert_near(operations.resize_by(image, factor, mode), official[f"resize/{mode}_scale{factor}"])
    small = operations.resize_to(image, (20, 16), mode)
    assert_near(small, official[f"resize/{mode}_to_16x20"])
    assert_near(operations.resize_to(small, (80, 64), mode), official[f"resize/{mode}_16x20_back"])


@pytest.mark.parametrize("grey", [False, True])
def test_noise_equals_the_official_one(official, grey):
    image = picture_of(official)
    gaussian = operations.add_gaussian_noise(image, 20.0, grey, seed=11)
    poisson = operations.add_poisson_noise(image, 2.0, grey, seed=12)
    assert_near(gaussian, official[f"noise/gaussian_sigma20_gray{grey:d}_torchseed11"])
    assert_near(poisson, official[f"noise/poisson_scale2_gray{grey:d}_torchseed12"])


@pytest.mark.parametrize("quality", [30, 50, 95])
@pytest.mark.parametrize("odd", [False, True])
def test_jpeg_equals_libjpeg(official, quality, odd):
    image = picture_of(official, "image_odd_u8" if odd else "image_u8")
    expected = official[f"libjpeg_pil_u8/{'odd_' if odd else ''}q{quality}"].transpose(2, 0, 1) / 255
    # libjpeg and libjpeg-turbo, and their versions, round a few values differently
    assert np.abs(operations.compress_jpeg(image, quality)[0].numpy() - expected).max() < 3 / 255
