"""What the presets do to pictures, and the statistics of the official code."""

import math

import numpy as np
import pytest
from degrade_pictures import high_frequencies, psnr, synthetic

from osediff_core.degrade import (
    PRESETS,
    Blur,
    Jpeg,
    degrade,
    degrade_pair,
    draw,
    jpeg,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
    quality = [psnr(image, jpeg.compress_jpeg(image, q)) for q in (30, 50, 70, 95)]
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
# dataloader, on these pictures, enlarged back to 128 px: with Pillow's JPEG, and with its own DiffJPEG, which rings at
# dark borders of small pictures.
OFFICIAL = {
    False: {
        "psnr": (16.868, 0.010),
        "hf_share": (0.00965, 0.00008),
        "std": (0.1950, 0.0002),
        "abs_dx": (0.01179, 0.00004),
    },
    True: {
        "psnr": (16.80, 0.010),
        "hf_share": (0.0100, 0.00008),
        "std": (0.1996, 0.0002),
        "abs_dx": (0.0135, 0.00004),
    },
}


def measure(hq, result):
    return {
        "psnr": psnr(hq, result),
        "hf_share": high_frequencies(result)[1],
        "std": float(result.std()),
        "abs_dx": float((result[..., 1:] - result[..., :-1]).abs().mean()),
    }


@pytest.mark.parametrize("official", [False, True])
def test_statistics_agree_with_the_official_code(official):
    count = 240
    rows = []
    for seed in range(count):
        hq = synthetic(seed % 4)
        rows.append(measure(hq, degrade_pair(hq, "realesrgan", 4, seed, 0, official)[0]))
    for key, (mean, error) in OFFICIAL[official].items():
        values = np.array([row[key] for row in rows])
        allowed = 4 * math.hypot(values.std() / math.sqrt(count), error)
        assert abs(values.mean() - mean) < allowed, (key, values.mean(), mean, allowed)
