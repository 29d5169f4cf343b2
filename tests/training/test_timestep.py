"""The timestep whose noise is as strong as the damage."""

import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from run_settings import soft_pictures

from osediff_core.schedule import NoiseSchedule
from training.timestep import gaps, main, matching_timestep

SCHEDULE = NoiseSchedule.from_config(
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
)


@pytest.mark.parametrize("timestep", [50, 273, 700])
def test_latents_noised_to_a_timestep_give_it_back(timestep):
    generator = torch.Generator().manual_seed(0)
    z = 1.3 * torch.randn(3, 4, 64, 64, generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    found = gaps(SCHEDULE, SCHEDULE.add_noise(z, noise, timestep), z)
    assert matching_timestep(found) == pytest.approx(timestep, abs=10)


def test_more_damage_is_a_later_timestep():
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 1, 4, 32, 32, generator=generator)
    mild, strong = (matching_timestep(gaps(SCHEDULE, z + size * noise, z)) for size in (0.2, 1.0))
    assert 0 < mild < strong < 999


def test_the_command_says_a_setting(mini_base, tmp_path, caplog):
    caplog.set_level("INFO")
    soft_pictures(tmp_path, 3, (15, 12), (96, 96))
    options = [
        "--base",
        str(mini_base),
        "--images",
        str(tmp_path),
        "--size",
        "64",
        "--preset",
        "light",
        "--device",
        "cpu",
    ]
    assert main(options) == 0
    assert re.search(r"model\.timestep=\d+: of 3 images; of most single ones \d+ to \d+", caplog.text)
    for name in ("LR", "HR"):
        (tmp_path / "pairs" / name).mkdir(parents=True)
    good = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(good).save(tmp_path / "pairs/HR/a.png")
    Image.fromarray(good).filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "pairs/LR/a.png")
    options[3] = str(tmp_path / "pairs")
    assert main(options) == 0 and "of 1 images" in caplog.text
    options[3] = str(tmp_path / "nowhere")
    assert main(options) != 0 and "There is no folder" in caplog.text
