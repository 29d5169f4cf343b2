"""What is drawn, and the operations that do it."""

import math

import numpy as np
import pytest
import torch

from osediff_core.degrade import Blur, Jpeg, Noise, Pick, Resize, draw, kernels, noise, operations

pytestmark = pytest.mark.usefixtures("one_thread")


def steps_of(preset, count, kind, size=(512, 512)):
    draws = (draw(preset, size, 4, seed) for seed in range(count))
    return [[step for step in one.steps if isinstance(step, kind)] for one in draws]


def assert_share(hits, trials, expected):
    """Within four standard deviations of a binomial share."""
    spread = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) <= 4 * spread, (hits / trials, expected)


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
        added = noise.add_gaussian_noise(image, 12.0, grey, seed=1) - image
        assert abs(float(added.std()) * 255 - 12) < 0.3
        assert bool((added[:, 0] == added[:, 1]).all()) == grey
    ramp = torch.linspace(0, 1, 256).repeat(3, 256, 1)[None]
    added = noise.add_poisson_noise(ramp, 0.5, False, seed=1) - ramp
    for level in (64, 128, 192):
        expected = 0.5 * math.sqrt(level / 255 / 256)
        assert abs(float(added[..., level].std()) / expected - 1) < 0.1


def test_shifted_kernels_move_their_middle():
    kernel = kernels.gaussian(25, (1.5, 1.5))
    axis = np.arange(25) - 12
    for shift in (0.5, 1.5, 2.0):
        moved = kernels.shifted(kernel, shift)
        assert abs(moved.sum() - 1) < 1e-12
        for weights in (moved.sum(0), moved.sum(1)):
            assert abs((weights * axis).sum() - shift) < 1e-6


def test_correlated_noise_has_the_covariance_that_it_says():
    covariance = ((100.0, 60.0, 0.0), (60.0, 80.0, 10.0), (0.0, 10.0, 40.0))
    image = torch.full((1, 3, 200, 200), 0.5)
    added = (noise.add_correlated_noise(image, covariance, seed=4) - image)[0].flatten(1) * 255
    assert torch.allclose(torch.cov(added), torch.tensor(covariance), atol=3)


def test_speckle_and_photon_noise_grow_with_the_brightness():
    ramp = torch.linspace(0, 1, 256).repeat(3, 256, 1)[None]
    for grey in (False, True):
        speckle = noise.add_speckle_noise(ramp, 20.0, grey, seed=1) - ramp
        photon = noise.add_photon_noise(ramp, 1000.0, grey, seed=1) - ramp
        for level in (64, 128, 192):
            assert abs(float(speckle[..., level].std()) / (level / 255 * 20 / 255) - 1) < 0.15
            assert abs(float(photon[..., level].std()) / math.sqrt(level / 255 / 1000) - 1) < 0.15
        assert bool((speckle[:, 0] == speckle[:, 1]).all()) == grey


# ---- CodeFormer and BSRGAN ----


def test_codeformer_draws_the_official_ranges():
    count = 1000
    draws = [draw("codeformer", (512, 512), 4, seed) for seed in range(count)]
    steps = [one.steps for one in draws]
    assert all([type(step) for step in one] == [Blur, Resize, Noise, Jpeg] for one in steps)
    assert_share(sum(blur.kernel.angle is None for blur, *_ in steps), count, 0.5)
    assert all(blur.kernel.size == 41 and 1 <= min(blur.kernel.sigmas) for blur, *_ in steps)
    sides = [resize.size[0] for _, resize, *_ in steps]
    assert min(sides) == 17 and max(sides) > 400  # 512 / 30 and nearly 512 / 1
    assert_share(sum(side < 512 / 15.5 for side in sides), count, 0.5)
    assert all(0 <= noisy.strength <= 20 and not noisy.grey for *_, noisy, _ in steps)
    qualities = [jpeg.quality for *_, jpeg in steps]
    assert min(qualities) == 30 and max(qualities) == 99
    assert all(one.back == Resize("bilinear", (512, 512)) for one in draws)


def test_bsrgan_draws_the_official_shares():
    count = 1500
    draws = [draw("bsrgan", (512, 512), 4, seed).steps for seed in range(count)]
    assert all(isinstance(steps[-1], Jpeg) and 30 <= steps[-1].quality <= 95 for steps in draws)
    assert_share(sum(sum(isinstance(s, Jpeg) for s in steps) == 2 for steps in draws), count, 0.9)
    halved = [isinstance(s[0], Resize) and s[0].size == (256, 256) for s in draws]
    assert_share(sum(halved), count, 0.25)
    picked = [next((s for s in steps if isinstance(s, Pick)), None) for steps in draws]
    assert_share(sum(pick is not None for pick in picked), count, 0.25)
    assert {pick.stride for pick in picked if pick} == {2, 4}
    for steps in draws:
        blurs = [s.kernel for s in steps if isinstance(s, Blur)]
        assert all(7 <= kernel.size <= 25 for kernel in blurs)
        assert sum(not kernel.shift for kernel in blurs) == 2
        places = [i for i, s in enumerate(steps) if isinstance(s, Resize | Pick)]
        assert steps[places[-1]].size == (128, 128)
    noises = [s for steps in draws for s in steps if isinstance(s, Noise)]
    assert len(noises) == count
    assert_share(sum(one.covariance is not None for one in noises), count, 0.2)
    assert_share(sum(one.grey for one in noises), count, 0.4)
    first = [next(type(s) for s in steps if s.__class__ is not Resize) for steps in draws]
    assert {Blur, Noise, Jpeg} <= set(first)  # any of them may be the first


def test_bsrgan_plus_draws_two_rounds():
    count = 1000
    draws = [draw("bsrgan_plus", (512, 512), 4, seed).steps for seed in range(count)]
    for steps in draws:
        assert sum(isinstance(s, Blur) for s in steps) == 2
        assert sum(isinstance(s, Jpeg) for s in steps) == 2 and isinstance(steps[-1], Jpeg)
        assert sum(isinstance(s, Resize) for s in steps) == 3 and steps[-2].size == (128, 128)
    kinds = [s.kind for steps in draws for s in steps if isinstance(s, Noise)]
    assert kinds.count("gaussian") == 2 * count
    assert_share(kinds.count("photon"), 2 * count, 0.1)
    assert_share(kinds.count("speckle"), 2 * count, 0.1)
    photons = [s.strength for steps in draws for s in steps if isinstance(s, Noise) and s.kind == "photon"]
    assert 100 <= min(photons) and max(photons) <= 10000
    # in order: blur, resize first, and never a resize before the first blur
    ordered = sum([type(s) for s in steps[1:3]] == [Blur, Resize] for steps in draws)
    assert 0.5 * count < ordered < 0.65 * count


def test_down_sampling_by_picking_keeps_the_place():
    """The shifted Gaussian's middle is the middle of the pixels that become one."""
    ramp = torch.linspace(0, 1, 64).repeat(3, 64, 1)[None]
    kernel = kernels.shifted(kernels.gaussian(25, (1.5, 1.5)), 1.5)
    picked = operations.correlate(ramp, kernel)[..., ::4, ::4]
    expected = operations.resize_to(ramp, (16, 16), "area")
    assert torch.allclose(picked[..., 4:-4], expected[..., 4:-4], atol=1e-4)
