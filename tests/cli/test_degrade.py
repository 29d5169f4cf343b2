"""`osediff degrade` as its users run it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osediff_core.cli import main as cli
from osediff_core.degrade import degrade
from osediff_core.images import read_image


def save_photo(path, size=(40, 24), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


@pytest.fixture
def osediff(capsys, monkeypatch, tmp_path):
    """Runs a command line in a folder of its own; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        status = cli.main(["degrade", *(str(a) for a in args)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def read(path):
    return torch.from_numpy(read_image(path).rgb).permute(2, 0, 1)[None]


def test_a_folder_to_a_folder_with_a_record(osediff):
    names = ["a.png", "b.jpg", "c.png"]
    for seed, name in enumerate(names):
        save_photo(Path("in", name), seed=seed)
    status, out, err = osediff("in", "-o", "out", "--seed", 5, "--sheet", "sheet.png", "--json")
    assert status == 0, err
    data = json.loads(out)
    assert (data["command"], data["degraded"], data["failed"]) == ("degrade", 3, 0)
    assert (data["preset"], data["scale"], data["seed"], data["official"]) == ("realesrgan", 4.0, 5, None)
    for index, (name, record) in enumerate(zip(names, data["results"], strict=True)):
        assert record["status"] == "degraded" and record["output_size"] == [10, 6]
        expected, (degradation,) = degrade(read(Path("in", name)), "realesrgan", 4, 5, first=index)
        written = read(record["output"])
        assert torch.allclose(written, expected, atol=1e-6)
        assert record["degradation"] == json.loads(json.dumps(degradation.as_dict()))
    sheet = Image.open("sheet.png")
    assert sheet.mode == "RGB" and sheet.width > 2 * 360 and np.asarray(sheet).std() > 20


def test_a_picture_that_is_skipped_keeps_its_number(osediff):
    for seed in range(3):
        save_photo(Path(f"in/{seed}.png"), seed=seed)
    osediff("in", "-o", "all")
    save_photo(Path("some/0.png"))
    status, out, _ = osediff("in", "-o", "some", "--skip-existing")
    assert status == 0 and out.startswith("2 degraded, 1 skipped")
    assert Path("all/2.png").read_bytes() == Path("some/2.png").read_bytes()


def test_one_bad_file_does_not_stop_the_rest(osediff):
    save_photo(Path("in/a.png"))
    Path("in/b.png").write_bytes(b"no picture")
    save_photo(Path("in/c.png"))
    status, out, err = osediff("in", "missing.png", "-o", "out")
    assert status == 1 and out.startswith("2 degraded, 0 skipped, 2 failed")
    assert "b.png is not an image" in err and "missing.png does not exist" in err
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "c.png"]


def test_alpha_and_grey_and_16_bits(osediff):
    save_photo(Path("in/alpha.png"), mode="RGBA")
    save_photo(Path("in/grey.png"), mode="L")
    Image.fromarray(np.full((24, 40), 40000, np.uint16)).save("in/deep.png")
    status, _, err = osediff("in", "-o", "out", "--preset", "blur", "--scale", "2")
    assert status == 0 and "16 bits" in err
    assert read_image("out/alpha.png").alpha.shape == (12, 20)
    assert read_image("out/grey.png").single_channel  # blurring adds no colours
    assert read_image("out/deep.png").bits == 8
    status, _, err = osediff("in/alpha.png", "-o", "out.jpg")
    assert status == 1 and "transparency" in err


def test_options_reach_the_degradation(osediff):
    save_photo(Path("in.png"), size=(64, 48))
    for name in ("plain", "back", "official", "codeformer"):
        extra = {
            "plain": [],
            "back": ["--resize-back"],
            "official": ["--official"],
            "codeformer": ["--preset", "codeformer", "--resize-back"],
        }[name]
        assert osediff("in.png", "-o", f"{name}.png", *extra)[0] == 0
    assert read("plain.png").shape[-2:] == (12, 16) and read("back.png").shape[-2:] == (48, 64)
    assert read("codeformer.png").shape[-2:] == (48, 64)
    assert not torch.equal(read("plain.png"), read("official.png"))
    Path("mine.yaml").write_text(
        "summary: mine\nmethod: realesrgan\norders:\n  - jpeg: [50, 50]\nofficial: true\n", encoding="utf-8"
    )
    status, out, _ = osediff("in.png", "-o", "mine.png", "--preset", "mine.yaml", "--json")
    (record,) = json.loads(out)["results"]
    assert status == 0 and record["degradation"]["steps"][-1] == {
        "step": "jpeg",
        "quality": 50.0,
        "differentiable": True,
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scale", "0.5"], "at least 1"),
        (["--preset", "heavy"], "no degradation preset named 'heavy'"),
        (["--preset", "none.yaml"], "none.yaml cannot be read"),
        (["--seed", "-1"], "whole number"),
        (["--sheet", "sheet.txt"], "no suffix of an image format"),
        (["--sheet", "in.png"], "also an input"),
        (["--size", "3x3"], "--size"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_done(osediff, options, said):
    save_photo(Path("in.png"))
    status, _, err = osediff("in.png", "-o", "out.png", *options)
    assert status == 2 and said in err and not Path("out.png").exists()
