"""Degradations against the official code's numbers: operations one by one, and statistics of the whole."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from osediff_core.degrade import degrade_pair, jpeg, kernels, noise, operations

pytestmark = pytest.mark.usefixtures("one_thread")


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
    gaussian = noise.add_gaussian_noise(image, 20.0, grey, seed=11)
    poisson = noise.add_poisson_noise(image, 2.0, grey, seed=12)
    assert_near(gaussian, official[f"noise/gaussian_sigma20_gray{grey:d}_torchseed11"])
    assert_near(poisson, official[f"noise/poisson_scale2_gray{grey:d}_torchseed12"])


@pytest.mark.parametrize("quality", [30, 50, 95])
@pytest.mark.parametrize("odd", [False, True])
def test_jpeg_equals_libjpeg(official, quality, odd):
    image = picture_of(official, "image_odd_u8" if odd else "image_u8")
    expected = official[f"libjpeg_pil_u8/{'odd_' if odd else ''}q{quality}"].transpose(2, 0, 1) / 255
    # libjpeg and libjpeg-turbo, and their versions, round a few values differently
    assert np.abs(jpeg.compress_jpeg(image, quality)[0].numpy() - expected).max() < 3 / 255


@pytest.mark.parametrize("quality", [30, 50, 75.5, 95])
@pytest.mark.parametrize("odd", [False, True])
def test_diff_jpeg_equals_the_official_one(official, quality, odd):
    image = picture_of(official, "image_odd_u8" if odd else "image_u8")
    expected = official[f"diffjpeg/{'odd_' if odd else ''}q{quality:g}"]
    assert_near(jpeg.diff_jpeg(image, quality), expected, 1e-4)
    # a batch with a quality for each
    both = jpeg.diff_jpeg(torch.cat([image.flip(-1), image]), torch.tensor([60.0, quality]))
    assert torch.equal(both[1:], jpeg.diff_jpeg(image, quality))


def test_diff_jpeg_is_as_far_from_libjpeg_as_the_official_one(official):
    for name in [key for key in official if key.startswith("jpeg_vs/")]:
        odd, quality = re.search(r"/(odd_)?q(\d+)", name).groups()
        image = picture_of(official, "image_odd_u8" if odd else "image_u8")
        apart = jpeg.diff_jpeg(image, int(quality)) - jpeg.compress_jpeg(image, int(quality))
        ours = float(-10 * torch.log10((apart**2).mean()))
        assert abs(ours - official[name][0]) < 0.1, (name, ours)


# ---- statistics ----


def official_picture(height, width, k):
    """uint8 (H, W, 3): the k-th picture that the official statistics were measured on; k 0 to 3."""
    y, x = ((np.arange(height) + 0.5) / height)[:, None], ((np.arange(width) + 0.5) / width)[None]
    turn = 2 * np.pi
    texture = 0.09 * np.sin(turn * ((23 + 5 * k) * x + 11 * y)) * np.sin(turn * (2 * x + 5 * y))
    texture = texture + 0.04 * np.sin(turn * (41 - 4 * k) * y)
    edge = np.tanh((12 + 6 * k) * (x + 0.6 * y - (0.8 - 0.1 * k)))
    channels = [
        0.5
        + 0.22 * np.sin(turn * ((1.5 + 0.4 * k) * x + 0.5 * y + c / 3))
        + 0.14 * np.cos(turn * ((3 - 0.3 * k) * y - x + c / 5))
        + 0.05 * (2 - c) * edge
        + texture
        for c in range(3)
    ]
    return np.rint(np.stack(channels, -1).clip(0, 1) * 255).astype(np.uint8)


def high_frequency_share(image):
    """Power above half the Nyquist frequency over the whole without the mean; the mean over the channels."""
    planes = image[0].double().numpy()
    power = np.abs(np.fft.fft2(planes - planes.mean((1, 2), keepdims=True))) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in planes.shape[:0:-1])))
    return float((power[:, frequency > 0.25].sum(1) / power.sum((1, 2))).mean())


def as_tensor(levels):
    return torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255


def test_the_pictures_are_those_of_the_official_statistics(official):
    for k, name in enumerate(("image_u8", "image_odd_u8")):
        assert np.array_equal(official_picture(*official[name].shape[:2], k), official[name])


def test_the_shares_of_high_frequencies_are_the_official_ones():
    shares = [high_frequency_share(as_tensor(official_picture(128, 128, k))) for k in range(4)]
    np.testing.assert_allclose(shares, [0.0255, 0.0487, 0.0515, 0.0575], atol=6e-5)


def compare(preset, side, count, psnr, percentiles, share, horizontal, decibels=0.8):
    """Every mean within four combined standard errors of the official one, percentiles within `decibels`.

    psnr and share are (mean, standard error).
    """
    pictures = [as_tensor(official_picture(side, side, k)) for k in range(4)]
    rows = []
    for index in range(count):
        lq, hq, _ = degrade_pair(pictures[index % 4], preset, 4, 1000, index, official=True)
        db = float(-10 * torch.log10(((lq - hq) ** 2).mean()))
        rows.append((db, high_frequency_share(lq), float(lq.diff(dim=-1).abs().mean())))
    values = np.array(rows)
    means, errors = values.mean(0), values.std(0) / math.sqrt(count)
    assert abs(means[0] - psnr[0]) < 4 * math.hypot(errors[0], psnr[1]), means[0]
    assert abs(means[1] - share[0]) < 4 * math.hypot(errors[1], share[1]), means[1]
    assert abs(means[2] - horizontal) < 4 * math.sqrt(2) * errors[2], means[2]  # theirs is not on file
    np.testing.assert_allclose(np.percentile(values[:, 0], [10, 90]), percentiles, rtol=0, atol=decibels)


def test_statistics_of_realesrgan_at_128_px():
    compare("realesrgan", 128, 200, (20.70, 0.12), (18.31, 22.61), (0.0123, 0.0006), 0.0164)


@pytest.mark.slow
def test_statistics_at_512_px():
    # from 60 draws each, so that the standard error of the official percentiles alone is about 0.5 dB
    compare("realesrgan", 512, 60, (25.18, 0.23), (23.11, 27.36), (0.0032, 0.0004), 0.0097, 2.0)
    compare("codeformer", 512, 60, (22.78, 0.27), (20.31, 25.11), (0.0018, 0.00004), 0.0039, 2.0)
