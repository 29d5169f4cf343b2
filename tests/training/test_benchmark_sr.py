"""The paper's table with other weights: `tiny` on pairs made here."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchmetrics", reason="the eval extra is not installed")

from training import benchmark_sr


@pytest.fixture
def real(tmp_path):
    """Two pairs as StableSR lays them out."""
    for seed, name in enumerate("ab"):
        small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        truth = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
        for folder, picture in (("test_HR", truth), ("test_LR", truth.resize((16, 16)))):
            (tmp_path / "real" / folder).mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / "real" / folder / f"{name}.png")
    return tmp_path / "real"


def test_published_figures_are_those_of_the_paper():
    table = benchmark_sr.published()
    assert set(table) == set(benchmark_sr.PICTURES) and all(len(rows) == 7 for rows in table.values())
    (row,) = (row for row in table["RealSR"] if row["method"] == "OSEDiff-s1")
    assert (row["psnr"], row["maniqa"], row["musiq"], row["fid"]) == (25.15, 0.6326, 69.09, 123.49)


def test_a_data_set_beside_the_paper(real, tmp_path, caplog, one_thread):
    out = tmp_path / "out"
    command = ["--data", f"RealSR={real}", "--out", str(out), "--metrics", "psnr,ssim", "--device", "cpu"]
    assert benchmark_sr.main([*command, "--color-fix", "wavelet"]) == 0
    measured = json.loads((out / "benchmark.json").read_text())["RealSR"]
    figures = json.loads((out / "RealSR" / "evaluation.json").read_text())
    assert measured["summary"] == figures["summary"] and (out / "RealSR" / "report.html").is_file()
    page = (out / "benchmark.md").read_text()
    psnr = measured["summary"]["result"]["psnr"]["value"]
    assert (
        "| OSEDiff-s1 | 25.15 | 0.7341 | 0.2921 | 0.2128 | 123.49 | 5.6476 | 0.6326 | 69.09 | 0.6693 |"
        in page
    )
    assert (
        f"| **this run** | {psnr:.2f} |" in page
        and f"| this run - OSEDiff-s1 | {psnr - 25.15:+.2f} |" in page
    )
    assert "2 pictures. The paper's figures are of 100" in page

    result = out / "RealSR" / "results" / "a.png"
    written = result.stat().st_mtime_ns
    assert benchmark_sr.main([*command, "--color-fix", "wavelet"]) == 0
    assert result.stat().st_mtime_ns == written
    assert benchmark_sr.main([*command, "--color-fix", "adain"]) == 1
    assert "holds results of other options" in caplog.text


def test_a_folder_without_pairs_is_refused(tmp_path, caplog):
    assert benchmark_sr.main(["--data", f"mine={tmp_path}", "--out", str(tmp_path / "out")]) == 1
    assert "give the folder that holds LQ pictures and ground truth" in caplog.text
    with pytest.raises(SystemExit):
        benchmark_sr.main(["--data", "nameless", "--out", "out"])
