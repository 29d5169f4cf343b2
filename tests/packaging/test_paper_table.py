"""The paper's table with other weights: `tiny` on pairs made here."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchmetrics", reason="the eval extra is not installed")

from benchmarks import paper_table
from osediff_core import pipeline


def make_pairs(folder):
    """Two pairs as StableSR lays them out."""
    for seed, name in enumerate("ab"):
        small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        truth = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
        for side, picture in (("test_HR", truth), ("test_LR", truth.resize((16, 16)))):
            (folder / side).mkdir(parents=True, exist_ok=True)
            picture.save(folder / side / f"{name}.png")
    return folder


@pytest.fixture
def real(tmp_path):
    return make_pairs(tmp_path / "real")


def tables(out):
    """The data sets that have a table, in Markdown as in JSON."""
    names, page = list(json.loads((out / "benchmark.json").read_text())), (out / "benchmark.md").read_text()
    assert page.count("**tiny**") == len(names) and all(f"| {name} | " in page for name in names)
    return names


def test_published_figures_are_those_of_the_paper():
    table = paper_table.published()
    assert set(table) == set(paper_table.PICTURES) and all(len(rows) == 7 for rows in table.values())
    (row,) = (row for row in table["RealSR"] if row["method"] == "OSEDiff-s1")
    assert (row["psnr"], row["maniqa"], row["musiq"], row["fid"]) == (25.15, 0.6326, 69.09, 123.49)


def test_a_data_set_beside_the_paper(real, tmp_path, one_thread):
    out = tmp_path / "out"
    command = ["--data", f"RealSR={real}", "--out", str(out), "--metrics", "psnr,ssim", "--device", "cpu"]
    assert paper_table.main([*command, "--with", "tiny,color-fix=wavelet"]) == 0
    measured = json.loads((out / "benchmark.json").read_text())["RealSR"]
    figures = json.loads((out / "RealSR" / "comparison.json").read_text())
    assert measured["methods"] == figures["methods"] and (out / "RealSR" / "report.html").is_file()
    page = (out / "benchmark.md").read_text()
    bicubic, tiny = (method["summary"]["psnr"]["value"] for method in measured["methods"])
    assert (
        "| OSEDiff-s1 | 25.15 | 0.7341 | 0.2921 | 0.2128 | 123.49 | 5.6476 | 0.6326 | 69.09 | 0.6693 |"
        in page
    )
    assert (
        f"| **tiny** | {tiny:.2f} |" in page
        and f"| tiny - OSEDiff-s1 | {tiny - 25.15:+.2f} |" in page
        and f"| **bicubic** | {bicubic:.2f} |" in page
    )
    assert "2 pictures. The paper's figures are of 100" in page and "here none was given by --dape" in page

    result = out / "RealSR" / "tiny" / "results" / "a.png"
    written = result.stat().st_mtime_ns
    assert paper_table.main([*command, "--with", "tiny,color-fix=wavelet"]) == 0
    assert result.stat().st_mtime_ns == written
    assert paper_table.main([*command, "--with", "tiny,color-fix=adain"]) == 0
    assert result.stat().st_mtime_ns > written


def test_a_data_set_that_fails_costs_the_others_nothing(real, tmp_path, caplog, one_thread):
    out, broken = tmp_path / "out", make_pairs(tmp_path / "broken")
    for name in "ab":
        Image.new("RGB", (9, 9)).save(broken / "test_HR" / f"{name}.png")
    sets = ["--data", f"first={real}", "--data", f"bad={broken}", "--data", f"last={real}"]
    assert paper_table.main([*sets, "--out", str(out), "--metrics", "psnr", "--device", "cpu"]) == 1
    assert tables(out) == ["first", "last"] and "bad: None of the 2 pictures could be measured" in caplog.text


def test_ctrl_c_keeps_the_tables_and_the_same_command_goes_on(
    real, tmp_path, caplog, monkeypatch, one_thread
):
    out = tmp_path / "out"
    sets = ["--data", f"first={real}", "--data", f"second={real}"]
    command = [*sets, "--out", str(out), "--metrics", "psnr", "--device", "cpu"]
    restored, restore = [], pipeline.restore_picture

    def until_the_third(*args):
        restored.append(args)
        if len(restored) == 3:
            raise KeyboardInterrupt
        return restore(*args)

    monkeypatch.setattr(pipeline, "restore_picture", until_the_third)
    assert paper_table.main(command) == 130
    assert "the same command goes on" in caplog.text and tables(out) == ["first"]
    assert paper_table.main(command) == 0
    assert tables(out) == ["first", "second"] and len(restored) == 5


def test_all_folders_are_looked_at_before_anything_is_done(real, tmp_path, caplog):
    out = ["--out", str(tmp_path / "out")]
    assert paper_table.main(["--data", f"a={real}", "--data", f"mine={tmp_path}", *out]) == 2
    assert "give the folder that holds LQ pictures and ground truth" in caplog.text
    assert paper_table.main(["--data", f"a={real}", "--data", f"a={real}", *out]) == 2
    assert "Two data sets are named a" in caplog.text and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        paper_table.main(["--data", "nameless", "--out", "out"])
