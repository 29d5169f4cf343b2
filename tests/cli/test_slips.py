"""Command lines that mean something else than meant: refused with one sentence before anything is done, or said."""

import os
from pathlib import Path

import pytest
from PIL import Image

UPSCALE = ["upscale", "a.png", "-o", "o.png", "--dry-run"]


@pytest.fixture(autouse=True)
def pictures(tmp_path):
    """a.png, and in/ with x.png and y.jpg; paths are relative to the folder of `osediff`."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "in/x.png", "in/y.jpg"):
        Image.new("RGB", (12, 10), "teal").save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        *([*UPSCALE, option, ""] for option in ("--dape", "--ram", "--weights", "--base", "--revision", "--device")),
        *([*UPSCALE, option, " "] for option in ("--exclude-tags", "--format", "--name", "--size", "--seed", "--tile")),
        ["upscale", "", "-o", "o.png"],
        ["upscale", "a.png", "-o", ""],
        ["tag", "", "--dape", "tiny"],
        ["degrade", "a.png", "-o", "o.png", "--preset", ""],
        ["degrade", "a.png", "-o", "o.png", "--sheet", ""],
        ["evaluate", "in", "", "--metrics", "psnr"],
        ["evaluate", "in", "in", "--lq", ""],
        ["evaluate", "in", "in", "--metrics", ""],
        ["convert", "", "o.pkl"],
        ["info", ""],
        ["download", "osediff.pkl", "--to", ""],
        [*UPSCALE, "--seed=--"],
        [*UPSCALE, "--prompt=--"],
        [*UPSCALE, "--exclude-tags", ",", "--dape", "tiny"],
    ],
)  # fmt: skip
def test_empty_values_are_refused(osediff, line):
    status, out, err = osediff(*line)
    assert status == 2 and out == "" and len(err.splitlines()) == 1, err


def test_an_empty_prompt_is_no_prompt(osediff):
    assert osediff(*UPSCALE, "--prompt", "")[0] == 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--strength", "1,5", "write 1.5"),
        ("--strength", "0,8", "write 0.8"),
        ("--strength", "12,25", "write 12.25"),
        ("--strength", "1e30", "beyond 100"),
        ("--scale", "2,5", "write 2.5"),
        ("--scale", "1_0", "not a number"),
        ("--scale", "２", "not a number"),
        ("--fidelity", "0,5", "write 0.5"),
        ("--color-weight", ",5", "write .5"),
        ("--vae-memory", "1e308", "more than any machine"),
        ("--vae-memory", "1,5", "write 1.5"),
        ("--tile", "1", "8 or more"),
        ("--overlap", "95", "7/8"),
        ("--jpeg-quality", "101", "between 1 and 100"),
        ("--scale", "9" * 4000, "too large"),
        ("--seed", "9" * 4000, "…"),
    ],
)
def test_numbers_that_may_be_slips(osediff, option, value, said):
    status, _, err = osediff(*UPSCALE, option, value)
    assert status == 2 and said in err and len(err) < 400


def test_two_strengths_are_said(osediff):
    for value in ("1,0", "0.5,1", "1.0,5.0"):
        status, _, err = osediff(*UPSCALE, "--strength", value)
        unet, vae = (f"{float(part):g}" for part in value.split(","))
        assert status == 0 and f"{unet} for the UNet, {vae} for the VAE" in err


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        (["a.png"], "r.bmp"),
        (["a.png"], "r.xyz"),
        (["a.png"], "r.PNG.bak"),
        (["in"], "one.png"),
        (["in"], "one.bmp"),
        (["a.png", "in"], "one.png"),
        (["in"], "-"),
    ],
)
@pytest.mark.parametrize("command", ["upscale", "degrade"])
def test_an_output_that_would_silently_be_a_folder(osediff, inputs, output, command):
    status, _, err = osediff(command, *inputs, "-o", output)
    assert status == 2 and len(err.splitlines()) == 1 and not os.path.exists(output)


@pytest.mark.parametrize("output", ["r.bmp/", "one.png/", "there.png", "run_1.5", "out", ".out"])
def test_an_output_that_is_meant_as_a_folder(osediff, output):
    Path("there.png").mkdir()
    assert osediff("degrade", "in", "-o", output)[0] == 0
    assert sorted(os.listdir(output)) == ["x.png", "y.png"]


def test_folders_of_other_commands(osediff):
    for line in (
        ["evaluate", "in", "in", "-o", "report.html"],
        ["download", "osediff.pkl", "--to", "models.zip"],
    ):
        status, _, err = osediff(*line)
        assert status == 2 and "must be a folder" in err


@pytest.mark.parametrize("base", ["tiny", "in", "no-such-base"])
def test_a_revision_needs_a_hub_id(osediff, base):
    status, _, err = osediff(*UPSCALE, "--revision", "main", "--base", base)
    assert status == 2 and "hub id" in err


@pytest.mark.parametrize(
    ("tags", "near"), [("builing", "building"), ("tree,montain", "mountain"), ("qqqq", "list")]
)
def test_tags_that_there_are_not(osediff, tags, near):
    for line in (["tag", "a.png"], UPSCALE):
        status, _, err = osediff(*line, "--dape", "tiny", "--exclude-tags", tags)
        assert status == 2 and near in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "5"],
        ["--overlap", "3", "--tile", "0"],
        ["--color-weight", "0.5", "--color-fix", "none"],
        ["--recursive"],
        ["--jpeg-quality", "90"],
        ["--vae-attention", "pooled", "--vae-tile", "0"],
    ],
)
def test_options_without_effect_are_said(osediff, options):
    status, _, err = osediff(*UPSCALE, *options)
    assert status == 0 and f"{options[0]} has no effect" in err


@pytest.mark.parametrize("option", [["--vae-memory", "1e-9"], ["--vae-tile", "1"], ["--vae-memory", "0.001"]])
def test_memory_and_tiles_of_the_vae_have_a_floor(osediff, option):
    status, _, err = osediff(*UPSCALE, *option)
    assert status == 0 and f"{option[0]} is raised to" in err


@pytest.mark.parametrize(
    "name", ["{stem", "{foo}", "{stem.__class__}", "same", "../{stem}", "a/{stem}", "{}", "{number:q}", " "]
)
def test_templates_that_make_no_names(osediff, name):
    status, _, err = osediff("upscale", "in", "-o", "out", "--dry-run", "--name", name)
    assert status == 2 and "--name" in err


OTHERS = ("IMG.HEIC", "b.heif", "c.JXL", "d.dng", "e.cr3", "f.psd", "g.svg", "h.ico")


@pytest.mark.parametrize(
    "line",
    [
        ["upscale", "in", "-o", "out", "--dry-run"],
        ["degrade", "in", "-o", "out"],
        ["tag", "in", "--dape", "tiny"],
        ["evaluate", "in", "in", "--metrics", "psnr"],
    ],
)
def test_pictures_of_formats_that_are_not_read_are_said(osediff, line):
    for name in (*OTHERS, "Thumbs.db", "notes.txt", "desktop.ini", ".hidden.heic", "film.mp4"):
        Path("in", name).write_bytes(b"x")
    if line[0] == "evaluate":
        pytest.importorskip("torchmetrics", reason="the eval extra is not installed")
    status, _, err = osediff(*line)
    assert status == 0, err
    assert "8 pictures of formats that are not read are left out" in err
    assert all(Path(name).suffix.lower() in err for name in OTHERS)
    assert not any(suffix in err for suffix in (".txt", ".db", ".ini", ".mp4"))


def test_a_folder_of_nothing_else(osediff):
    Path("heic").mkdir()
    Path("heic/a.heic").write_bytes(b"x")
    status, _, err = osediff("upscale", "heic", "-o", "out")
    assert status == 1 and "1 .heic" in err and "holds no pictures that can be read" in err


def test_what_is_no_picture_does_not_count_as_done(osediff):
    Path("out").mkdir()
    Path("out/x.png").write_bytes(b"")
    Path("out/y.png").write_bytes(b"half of something")
    assert osediff("degrade", "in", "-o", "out", "--skip-existing")[1].startswith("2 degraded, 0 skipped")
    assert osediff("degrade", "in", "-o", "out", "--skip-existing")[1].startswith("0 degraded, 2 skipped")


@pytest.mark.skipif(os.name == "nt", reason="no such files")
def test_pipes_and_devices_are_refused_at_once(osediff):
    os.mkfifo("pipe")
    for line in (
        ["upscale", "pipe", "-o", "out"],
        *([*UPSCALE, option, "pipe"] for option in ("--weights", "--base", "--dape", "--ram", "--decoder")),
        ["info", "pipe"],
        ["info", "/dev/zero"],
        ["convert", "pipe", "o.safetensors"],
        ["tag", "a.png", "--dape", "pipe"],
    ):
        status, _, err = osediff(*line)
        assert status == 1 and ("is a pipe, not a file" in err or "is a device, not a file" in err)
