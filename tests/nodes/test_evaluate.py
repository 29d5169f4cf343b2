"""The Evaluate node: the core's figures on IMAGEs."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def images(pack):
    torch.manual_seed(1)
    truth = torch.rand(2, 24, 32, 3)
    image = (truth + 0.05 * torch.randn_like(truth)).clamp(0, 1)
    return image, truth


def test_its_figures_are_those_of_saved_files(pack, images, tmp_path):
    from osediff_core.evaluate import evaluate, pair_up, parse_metrics

    image, truth = images
    for name, batch in (("out", image), ("HR", truth)):
        (tmp_path / name).mkdir()
        for index, frame in enumerate(batch):
            Image.fromarray((frame * 255).round().byte().numpy()).save(tmp_path / name / f"{index + 1}.png")
    expected = evaluate(pair_up(tmp_path / "out", tmp_path / "HR").pairs, parse_metrics("psnr ssim")).cases
    alpha = torch.rand(2, 24, 32, 1)
    text, table = pack.evaluate.Evaluate.execute(torch.cat([image, alpha], -1), "psnr, ssim", truth).args
    rows = list(csv.DictReader(io.StringIO(table)))
    for row, case in zip(rows, expected, strict=True):
        assert row["name"] == case.name
        assert float(row["psnr"]) == pytest.approx(case.result["psnr"], abs=1e-5)
        assert float(row["ssim"]) == pytest.approx(case.result["ssim"], abs=1e-5)
    mean = np.mean([case.result["psnr"] for case in expected])
    assert text.startswith(f"PSNR ↑ {mean:.2f} [")


def test_one_reference_for_all_and_what_cannot_be_measured(pack, images):
    image, truth = images
    text, table = pack.evaluate.Evaluate.execute(image, "psnr fid", truth[:1]).args
    assert len(table.splitlines()) == 3 and "FID compares whole folders" in text
    errors = pack.core.errors
    with pytest.raises(errors.ImageError, match="32x24 pixels, but the reference has 16x24"):
        pack.evaluate.Evaluate.execute(image, "psnr", truth[:, :, :16])
    with pytest.raises(errors.OptionError, match="There is no metric 'vmaf'"):
        pack.evaluate.Evaluate.execute(image, "vmaf", truth)
    with pytest.raises(errors.OptionError, match="FID compares whole folders"):
        pack.evaluate.Evaluate.execute(image, "fid", truth)
    with pytest.raises(errors.OSEDiffError, match="PSNR compares with a ground truth"):
        pack.evaluate.Evaluate.execute(image, "psnr")
