"""`osediff evaluate` as its users run it, and its report as they open it."""

import csv
import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_cases import photo
from PIL import Image

pytest.importorskip("torchmetrics", reason="the eval extra is not installed")

from osediff_core.cli import evaluate
from osediff_core.cli import main as cli

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Three pairs in out, HR and LR; c is the worst, a is perfect."""
    monkeypatch.chdir(tmp_path)
    for folder in ("out", "HR", "LR"):
        Path(folder).mkdir()
    for seed, (name, fault) in enumerate((("a", 0), ("b <i>", 6), ("c", 40))):
        truth = photo((64, 48), seed)
        truth.save(f"HR/{name}.png")
        truth.resize((16, 12), Image.Resampling.BOX).save(f"LR/{name}.png")
        noise = np.random.default_rng(seed).normal(0, 1, (48, 64, 3)) * fault
        Image.fromarray((np.asarray(truth) + noise).clip(0, 255).astype(np.uint8)).save(f"out/{name}.png")
    return tmp_path


@pytest.fixture
def osediff(capsys):
    """Runs a command line; returns exit code, stdout, stderr."""

    def run(*args):
        status = cli.main(["evaluate", *(str(a) for a in args)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def test_all_files_of_a_run_tell_the_same(osediff, pairs):
    status, out, err = osediff(
        "out", "HR", "--lq", "LR", "-o", "found/deep", "--metrics", "psnr,ssim", "--json"
    )
    assert status == 0, err
    data = json.loads(out)
    assert json.loads(Path("found/deep/evaluation.json").read_text()) == data
    assert data["command"] == "evaluate" and [p["name"] for p in data["pictures"]] == ["a", "b <i>", "c"]
    assert data["metrics"][0]["better"] == "higher" and "no border crop" in data["metrics"][0]["settings"]
    with open("found/deep/evaluation.csv") as file:
        rows = list(csv.DictReader(file))
    for row, picture in zip(rows, data["pictures"], strict=True):
        assert float(row["psnr"]) == pytest.approx(picture["result"]["psnr"], abs=1e-6)
        assert float(row["bicubic_ssim"]) == pytest.approx(picture["bicubic"]["ssim"], abs=1e-6)
    mean = sum(p["result"]["psnr"] for p in data["pictures"]) / 3
    assert data["summary"]["result"]["psnr"]["value"] == pytest.approx(mean)
    table = Path("found/deep/evaluation.md").read_text()
    assert f"| result | {mean:.2f} |" in table
    assert table.index("| c |") < table.index("| b <i> |") < table.index("| a |")  # worst first
    page = Path("found/deep/report.html").read_text()
    assert "b &lt;i&gt;" in page and "b <i>" not in page
    # it needs no other file
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[\w/.]""", page)
    assert osediff("out", "HR", "--lq", "LR", "--metrics", "psnr,ssim", "--json")[1].count('"low"') == 6


def test_without_ground_truth_or_output(osediff, pairs):
    status, out, err = osediff("out", "--metrics", "psnr")
    assert status == 1 and out == "" and "PSNR compares with a ground truth; give one." in err
    status, out, _ = osediff("out/a.png", "HR/c.png", "--metrics", "psnr")
    assert status == 0 and out.startswith("PSNR ↑ ") and "1 measured, 0 failed" in out
    assert sorted(p.name for p in pairs.iterdir()) == ["HR", "LR", "out"]


def test_what_does_not_fit_is_said_and_changes_the_exit_code(osediff, pairs):
    photo((20, 20), 0).save("out/a.png")
    photo((20, 20), 0).save("out/extra.png")
    status, out, err = osediff("out", "HR", "--metrics", "psnr", "--json")
    assert status == 1
    data = json.loads(out)
    assert [f["name"] for f in data["failed"]] == ["a"] and len(data["unpaired"]) == 1
    assert "a.png has 20x20 pixels, but its ground truth" in err and "extra has no ground truth" in err


def test_ctrl_c_writes_what_is_measured(osediff, pairs, monkeypatch):
    def stopped(args, pairs):
        yield from pairs[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_telling", stopped)
    status, out, _ = osediff("out", "HR", "-o", "found", "--metrics", "psnr")
    assert status == 130 and "2 measured, 0 failed, 1 not done: interrupted" in out and "PSNR" in out
    data = json.loads(Path("found/evaluation.json").read_text())
    assert data["interrupted"] and [p["name"] for p in data["pictures"]] == ["a", "b <i>"]
    assert "interrupted after 2 pictures" in Path("found/report.html").read_text()


@pytest.mark.parametrize("lost", evaluate.FILES)
def test_figures_are_shown_also_where_a_file_cannot_be_written(osediff, pairs, monkeypatch, lost):
    write = evaluate.write_bytes_atomically

    def full(path, data):
        if path.name == lost:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(evaluate, "write_bytes_atomically", full)
    status, out, err = osediff("out", "HR", "-o", "found", "--metrics", "psnr", "--json")
    data, before = json.loads(out), evaluate.FILES[: evaluate.FILES.index(lost)]
    assert status == 1 and f"{lost} cannot be written (No space left on device); free space" in err
    assert data["error"] in err and data["summary"]["result"]["psnr"]["count"] == 3
    assert data["files"] == [str(Path("found", name)) for name in before]
    assert sorted(file.name for file in Path("found").iterdir()) == sorted(before)


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("out", "HR", "--metrics", "vmaf"), 2, "There is no metric 'vmaf'; choose from osediff, psnr"),
        (("nowhere", "HR"), 1, "nowhere does not exist"),
        (("out", "HR/a.png"), 2, "give all as one kind"),
        (("out", "HR", "-o", "HR/a.png"), 1, "Nothing can be written to HR/a.png"),
        (("out", "HR", "--device", "toaster"), 2, "Device 'toaster' is unknown"),
    ],
)
def test_errors_are_one_sentence(osediff, pairs, args, status, said):
    code, out, err = osediff(*args)
    assert (code, out) == (status, "") and said in err and err.count("\n") == 1


def test_the_worst_and_the_best_are_shown_and_large_pictures_by_their_centre(osediff, pairs):
    large = photo((1000, 100), 5)
    for folder in ("HR", "out"):
        large.save(f"{folder}/large.png")
    osediff("out", "HR", "-o", "found", "--metrics", "psnr", "--report-pictures", 3)
    page = Path("found/report.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page)[:2] == ["The 2 worst, by PSNR", "The 1 best, by PSNR"]
    assert re.findall(r"<figure.*?<h3>(.*?)</h3>", page) == ["c", "b &lt;i&gt;", "large"]
    assert "1000x100 pixels; shown is the centre, 768x100" in page


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_the_report_works_by_keyboard_without_network_light_and_dark(osediff, pairs, chromium):
    osediff("out", "HR", "--lq", "LR", "-o", "found", "--metrics", "psnr,ssim")
    backgrounds = []
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme, offline=True)
        page = context.new_page()
        errors, asked = [], []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((pairs / "found" / "report.html").as_uri())
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        case = page.locator(".case").first
        assert case.locator("h3").inner_text() == "c"
        slider = case.get_by_role("slider", name="Boundary in c")
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        assert slider.input_value() == "99"
        assert slider.get_attribute("aria-valuetext") == "bicubic up to 99 %, then result"
        assert case.locator(".stage").evaluate("e => getComputedStyle(e).getPropertyValue('--cut')") == "99"
        case.locator("input[data-side=left][value=bicubic]").focus()
        page.keyboard.press("ArrowLeft")
        assert case.locator("img.left").get_attribute("data-kind") == "LQ"
        assert case.locator(".tag.l").inner_text() == "LQ"
        assert case.locator("img.left").evaluate("e => e.complete && e.naturalWidth") == 64
        page.get_by_role("radio", name="2×").check()
        assert case.locator(".stage").evaluate("e => e.clientWidth") == 128
        page.get_by_role("button", name="PSNR").focus()
        page.keyboard.press("Enter")
        first = page.locator(".panel tbody tr td:first-child")
        assert first.all_inner_texts() == ["c", "b <i>", "a"]
        page.keyboard.press("Enter")
        assert first.all_inner_texts() == ["a", "b <i>", "c"]
        assert not errors and all(url.startswith(("file:", "data:")) for url in asked)
        context.close()
    assert backgrounds[0] != backgrounds[1]
