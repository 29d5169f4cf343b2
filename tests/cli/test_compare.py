"""`osediff compare` as its users run it: methods, upscalers and folders on the same pictures."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_cases import document, photo
from mini_models.methods import pisa_content, write_adcsr
from mini_models.upscalers import esrgan, esrgan_tensors
from PIL import Image

pytest.importorskip("torchmetrics", reason="the eval extra is not installed")
pytest.importorskip("spandrel", reason="the eval extra is not installed")

from osediff_core import pipeline
from osediff_core.backends.load_base import load_base

FAST = ("--metrics", "psnr,ssim", "--device", "cpu")


@pytest.fixture(scope="session")
def files(tmp_path_factory, small):
    """PiSA-SR for the small base, AdcSR, and an ESRGAN."""
    folder = tmp_path_factory.mktemp("methods")
    torch.save(pisa_content(load_base(small.base, "fp32", "cpu").unet.module), folder / "pisa_sr.pkl")
    write_adcsr(folder)
    torch.save({"params_ema": esrgan_tensors()}, folder / "RealESRGAN_x4plus.pth")
    return folder


@pytest.fixture(autouse=True)
def pairs(tmp_path):
    """Three pairs in LR and HR, and in other/ the results of some other system; paths are relative to their folder."""
    for folder in ("LR", "HR", "other"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate("abc"):
        truth = photo((64, 48), seed)
        truth.save(tmp_path / f"HR/{name}.png")
        truth.resize((16, 12), Image.Resampling.BOX).save(tmp_path / f"LR/{name}.png")
        truth.rotate(2).save(tmp_path / f"other/{name}.jpg")
    return tmp_path


def methods(data):
    return {one["name"]: one for one in data["methods"]}


def test_one_table_of_everything(osediff, files, small):
    line = ["compare", "LR", "-o", "out", "--truth", "HR", "--base", small.base, "--prompt", "a cat", *FAST]
    line += [
        "--with",
        small.weights,
        files / "pisa_sr.pkl",
        f"less={files / 'pisa_sr.pkl'},semantic=0.25,tile=64,sample-posterior=yes,seed=3",
    ]
    line += [f"{files / 'net_params_200.pkl'},decoder={files / 'halfDecoder.ckpt'}"]
    line += [files / "RealESRGAN_x4plus.pth", "SeeSR=other"]
    status, out, err = osediff(*line, "--json")
    assert status == 0, err
    data, found = document(out), methods(document(out))
    assert json.loads(Path("out/comparison.json").read_text()) == data
    assert [(one["name"], one["kind"], one["title"]) for one in data["methods"]] == [
        ("bicubic", "bicubic", "bicubic"),
        ("osediff", "one-step", "OSEDiff"),
        ("pisa_sr", "one-step", "PiSA-SR"),
        ("less", "one-step", "PiSA-SR"),
        ("net_params_200", "one-step", "AdcSR"),
        ("RealESRGAN_x4plus", "upscaler", "ESRGAN"),
        ("SeeSR", "folder", "folder"),
    ]
    assert not data["left_out"] and [one["name"] for one in data["pictures"]] == ["a", "b", "c"]
    for name, one in found.items():
        assert one["results"] == 3 and one["summary"]["psnr"]["count"] == 3
        assert (one["seconds"] is None) == (name == "SeeSR")
        assert (one["peak_memory"] is None) == (name in ("bicubic", "SeeSR"))
    # the words went only to the method that reads some, and options of its own only to one
    settings = {
        n: json.loads(Path(f"out/{n}/run.json").read_text())["made_by"]["settings"]
        for n in ("osediff", "less")
    }
    assert [settings[n]["prompt"] for n in settings] == ["a cat", ""]
    assert (settings["less"]["sliders"], settings["less"]["tile"]) == ({"semantic": 0.25}, 64)
    assert found["less"]["summary"] != found["pisa_sr"]["summary"]

    lq = torch.from_numpy(np.asarray(Image.open("LR/a.png")).copy()).permute(2, 0, 1)[None] / 255
    expected = (esrgan(esrgan_tensors(), lq)[0].permute(1, 2, 0).numpy() * 255).round()
    mine = np.asarray(Image.open("out/RealESRGAN_x4plus/results/a.png")).astype(float)
    assert np.abs(mine - expected).max() <= 1
    status, out, _ = osediff("upscale", "LR", "-o", "alone", "--base", small.base, "--weights", small.weights)
    assert (
        Path("alone/a.png").read_bytes() != Path("out/osediff/results/a.png").read_bytes()
    )  # another prompt
    score = osediff("evaluate", "other", "HR", "--metrics", "psnr", "--json")[1]
    assert json.loads(score)["summary"]["result"]["psnr"] == found["SeeSR"]["summary"]["psnr"]

    with open("out/comparison.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 and {row["method"] for row in rows} == set(found)
    table = Path("out/comparison.md").read_text()
    best = max(found.values(), key=lambda one: one["summary"]["psnr"]["value"])
    assert f"**{best['summary']['psnr']['value']:.2f}**" in table and table.count("**") == 4
    page = Path("out/report.html").read_text()
    assert page.count('<figure class="case">') == 3 and page.count('data-kind="pisa_sr"') == 3
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[\w/.]""", page)


def test_what_is_there_is_taken_up_again_and_what_changed_is_made_anew(osediff, monkeypatch):
    restored, restore = [], pipeline.restore_picture

    def counted(*args):
        restored.append(args)
        if len(restored) == 2:
            raise KeyboardInterrupt
        return restore(*args)

    monkeypatch.setattr(pipeline, "restore_picture", counted)
    line = ["compare", "LR", "-o", "out", "--with", "tiny", "other", "--truth", "HR", *FAST]
    status, out, _ = osediff(*line, "--json")
    data = document(out)
    assert status == 130 and data["interrupted"] and methods(data)["tiny"]["results"] == 1
    assert osediff(*line)[0] == 0 and len(restored) == 4  # one, the one that was stopped, and two more
    assert osediff(*line)[0] == 0 and len(restored) == 4
    Path("out/tiny/results/b.png").write_bytes(Path("HR/b.png").read_bytes())  # not what was written
    photo((16, 12), 9).save("LR/c.png")
    assert osediff(*line)[0] == 0 and len(restored) == 6
    assert osediff(*line, "--prompt", "a cat")[0] == 0 and len(restored) == 9
    Path("out/tiny/run.json").write_text("{")
    assert osediff(*line, "--prompt", "a cat")[0] == 0 and len(restored) == 12


def test_without_ground_truth(osediff):
    status, out, err = osediff("compare", "LR", "-o", "out", "--with", "other", "--metrics", "psnr")
    assert status == 1 and "PSNR compares with a ground truth; give one." in err
    status, out, err = osediff(
        "compare", "LR/a.png", "-o", "out", "--with", "other", "--truth", "HR/b.png", *FAST
    )
    assert (
        status == 0
        and re.search(r"^bicubic .* \d+\.\d\d  0\.\d{4}$", out, re.M)
        and "1 picture compared" in out
    )


def test_what_fails_costs_the_others_nothing(osediff, small, files):
    unfit = files / "pisa_sr.pkl"  # for another base than tiny
    Path("LR/d.png").write_bytes(b"no picture")
    shutil.copy("HR/a.png", "HR/d.png")
    Path("other/b.jpg").unlink()
    photo((20, 20), 1).save("other/c.jpg")
    line = [
        "compare",
        "LR",
        "-o",
        "out",
        "--truth",
        "HR",
        "--with",
        "tiny",
        unfit,
        "other",
        *FAST,
        "--json",
    ]
    status, out, _ = osediff(*line)
    data = document(out)
    assert status == 1 and [one["name"] for one in data["pictures"]] == ["a"]
    left = " ".join(data["left_out"])
    assert (
        "pisa_sr: " in left
        and "does not fit this base" in left
        and "b, d have no result of that name" in left
    )
    assert "c has results of several sizes" in left and "20x20 of other" in left
    assert methods(data)["pisa_sr"]["error"] and methods(data)["tiny"]["summary"]["psnr"]["count"] == 1


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (["--with", "nowhere.pth"], 1, "nowhere.pth does not exist"),
        (["--with", "HR/a.png"], 1, "is a PNG image"),
        (["--with", "LR"], 2, "holds the pictures themselves"),
        (["--with", "tiny", "tiny"], 2, "give one a name of its own, as NAME=tiny"),
        (["--with", "bicubic=tiny"], 2, "Two methods are called bicubic"),
        (["--with", "../x=tiny"], 2, "is no name of a method"),
        (["--with", "tiny,base=other"], 2, "tiny brings its own base"),
        (["--with", "tiny,dape=nowhere"], 1, "nowhere does not exist"),
        (["--with", "a="], 2, "names no file"),
        (["--with", "tiny", "--truth", "x" * 5000], 1, "does not exist"),
        (["--with", "tiny,scale=2"], 2, "tiny takes no scale"),
        (["--with", "other,tile=64"], 2, "is a folder of results, which takes no tile"),
        (["--with", "tiny,sample-posterior=1"], 2, "takes sample-posterior=yes or sample-posterior=no"),
        (["--with", "tiny,tile=x"], 2, "'x' is not a whole number"),
        (["--with", "tiny,pixel=1"], 2, "OSEDiff has no slider pixel"),
        (["--with", "tiny", "--truth", "nowhere"], 1, "nowhere does not exist"),
        (["--with", "tiny", "--truth", "HR/a.png"], 2, "give a folder as --truth"),
        (["--with", "tiny", "--metrics", "vmaf"], 2, "no metric 'vmaf'"),
        (["--with", "other", "--size", "9x9"], 1, "nothing can be compared"),
        ([], 2, "--with"),
    ],
)
def test_errors_are_one_sentence(osediff, line, status, said):
    code, _, err = osediff("compare", "LR", "-o", "out", *line, "--device", "cpu", "-q")
    assert code == status and said in err, err
    assert all(line.startswith("osediff: ") for line in err.splitlines() if "efficientnet" not in line)
