"""The command as its users run it: arguments in, files, text and exit code out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import osediff_core
from osediff_core.evaluate.metrics import DEFAULT, parse_metrics

ROOT = Path(__file__).parents[2]
TINY = Path(osediff_core.__file__).parent / "tiny"


def save_photo(path, size=(12, 10), seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def model(small):
    return ["--base", small.base, "--weights", small.weights, "--device", "cpu", "--scale", "2"]


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_a_file_to_a_file(osediff, model):
    save_photo(Path("in.jpg"))
    status, out, err = osediff("upscale", "in.jpg", "-o", "deep/er/out.webp", *model)
    assert status == 0, err
    assert size_of("deep/er/out.webp") == (24, 20)
    assert out.splitlines() == ["1 restored, 0 skipped, 0 failed"] and "24x20" in err


def test_one_bad_file_does_not_stop_the_rest(osediff, model):
    save_photo(Path("in/a.png"))
    save_photo(Path("in/c.jpg"))
    Path("in/b.png").write_bytes(Path("in/a.png").read_bytes()[:100])
    Path("in/d.tif").write_bytes(b"")
    Path("in/readme.txt").write_text("no picture")
    status, out, _ = osediff("upscale", "in", "missing.png", "-o", "out", *model, "--json")
    assert status == 1
    report = json.loads(out)
    assert (report["restored"], report["skipped"], report["failed"]) == (2, 0, 3)
    failed = {r["input"] for r in report["results"] if r["status"] == "failed"}
    assert failed == {os.path.join("in", "b.png"), os.path.join("in", "d.tif"), "missing.png"}
    assert all(r["error"] for r in report["results"] if r["status"] == "failed")
    restored = next(r for r in report["results"] if r["status"] == "restored")
    assert restored["input_size"] == [12, 10] and restored["output_size"] == [24, 20]
    assert sorted(os.listdir("out")) == ["a.png", "c.png"]  # and no temporary files


def test_recursive_keeps_folders_and_skips_results(osediff, model):
    save_photo(Path("in/a.tif"))
    save_photo(Path("in/sub/deeper/b.JPG"))
    save_photo(Path("in/.hidden/c.png"))
    first = osediff("upscale", "in", "-o", "in/out", "--recursive", *model, "--json")
    second = osediff("upscale", "in", "-o", "in/out", "--recursive", *model, "--json", "--skip-existing")
    found = sorted(str(p.relative_to("in/out")) for p in Path("in/out").rglob("*") if p.is_file())
    assert found == ["a.tif", os.path.join("sub", "deeper", "b.png")]
    assert first[0] == second[0] == 0
    assert json.loads(first[1])["restored"] == 2
    assert json.loads(second[1])["skipped"] == 2 and json.loads(second[1])["restored"] == 0


def test_without_recursive_sub_folders_are_left_alone(osediff):
    save_photo(Path("in/sub/a.png"))
    status, _, err = osediff("upscale", "in", "-o", "out")
    assert status == 1 and "--recursive" in err


@pytest.mark.parametrize("refused", ["in", os.path.join("in", "sub")])
def test_a_folder_that_cannot_be_read_is_said(osediff, model, monkeypatch, refused):
    save_photo(Path("in/a.png"))
    save_photo(Path("in/sub/b.png"))
    scan = os.scandir

    def scandir(path):
        if os.fspath(path) == refused:
            raise PermissionError(13, "Permission denied", refused)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    status, out, err = osediff("upscale", "in", "-o", "out", "--recursive", *model, "--json")
    report = json.loads(out)
    assert (status, report["failed"], report["restored"]) == (1, 1, 0 if refused == "in" else 1)
    assert f"The folder {refused} cannot be read (Permission denied)" in err and "no pictures" not in err


def test_kinds_of_picture(osediff, model):
    for mode in ("L", "LA", "RGBA", "P", "1"):
        save_photo(Path(f"in/{mode}.png"), mode=mode)
    save_photo(Path("in/cmyk.jpg"), mode="CMYK")
    save_photo(Path("in/one.bmp"), size=(1, 1))
    status, _, err = osediff("upscale", "in", "-o", "out", *model)
    assert status == 0, err
    modes = {}
    for path in Path("out").iterdir():
        with Image.open(path) as image:
            modes[path.name] = image.mode
    assert modes == {
        **{"L.png": "L", "LA.png": "LA", "RGBA.png": "RGBA", "P.png": "RGB", "1.png": "L"},
        **{"cmyk.png": "RGB", "one.png": "RGB"},
    }


def test_strength_and_tiles_reach_the_generator(osediff, model):
    save_photo(Path("in.png"), size=(40, 40))
    for name, extra in {
        "plain": [],
        "same": ["--strength", "1,1"],
        "base": ["--strength", "0"],
        "faithful": ["--fidelity", "1"],
        "detailed": ["--fidelity", "-1"],
        "stronger": ["--strength", "1.25,1"],
        "tiled": ["--tile", "12", "--overlap", "4"],
        "whole": ["--tile", "0"],
        "vae": ["--vae-tile", "16", "--vae-attention", "exact"],
        "little": ["--vae-memory", "0.001"],
        "auto": ["--vae-tile", "auto"],
    }.items():
        assert osediff("upscale", "in.png", "-o", f"{name}.png", *model, *extra)[0] == 0
    pixels = {p.stem: np.asarray(Image.open(p)).astype(int) for p in Path().glob("*.png") if p.stem != "in"}
    assert np.array_equal(pixels["plain"], pixels["same"]) and np.array_equal(
        pixels["plain"], pixels["whole"]
    )
    assert np.abs(pixels["plain"] - pixels["base"]).max() > 5
    assert np.abs(pixels["plain"] - pixels["faithful"]).max() > 5
    assert np.array_equal(pixels["detailed"], pixels["stronger"])
    assert np.abs(pixels["plain"] - pixels["tiled"]).max() > 0
    for exact in (
        "vae",
        "little",
        "auto",
    ):  # float error may cross a level, before the colour fix and after it
        difference = np.abs(pixels["plain"] - pixels[exact])
        assert difference.max() <= 2 and (difference > 0).mean() < 1e-3, exact


@pytest.mark.parametrize(
    "options",
    [
        ["--scale", "0"],
        ["--scale", "nan"],
        ["--scale", "4", "--size", "8x8"],
        ["--size", "12"],
        ["--size", "0x5"],
        ["--tile", "-1"],
        ["--tile", "8", "--overlap", "8"],
        ["--tile-grid", "round"],
        ["--vae-tile", "-1"],
        ["--vae-memory", "0"],
        ["--vae-attention", "some"],
        ["--strength", "1,2,3"],
        ["--fidelity", "1.1"],
        ["--color-fix", "hsv"],
        ["--dtype", "int8"],
        ["--no-such-option"],
    ],
)
def test_wrong_options_are_refused_at_once(osediff, options):
    save_photo(Path("in.png"))
    status, out, err = osediff("upscale", "in.png", "-o", "out.png", *options, "--json")
    assert status == 2 and len(err.splitlines()) == 1
    assert json.loads(out)["kind"] == "OptionError" and not Path("out.png").exists()


@pytest.mark.parametrize(
    ("inputs", "output", "said"),
    [
        (["a.png"], "a.png", "overwrite"),
        (["."], ".", "overwrite"),
        (["a.png", "a.jpg"], "out", "both become"),
        (["a.png", "b.png"], "out.png", "give a folder"),
    ],
)
def test_outputs_that_would_clash_are_refused(osediff, inputs, output, said):
    for name in ("a.png", "a.jpg", "b.png"):
        save_photo(Path(name))
    status, _, err = osediff("upscale", *inputs, "-o", output)
    assert status == 2 and said in err


@pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere only")
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_impossible_names_are_reported_like_missing_files(tmp_path, encoding):
    # bytes that are no UTF-8, as Python carries them; too long for a file
    names = ["b\udcff日本.png", "x" * 300]
    command = [sys.executable, "-m", "osediff_core", "upscale", *names, "-o", str(tmp_path / "out")]
    options = {"capture_output": True, "cwd": ROOT, "env": {**os.environ, "PYTHONIOENCODING": encoding}}
    as_json = subprocess.run([*command, "--json"], **options)
    assert as_json.returncode == 1
    assert [result["input"] for result in json.loads(as_json.stdout)["results"]] == names
    as_text = subprocess.run(command, **options)
    assert as_text.returncode == 1 and rb"failed: b\udcff" in as_text.stdout


def test_one_file_named_twice_is_one_job(osediff, model):
    save_photo(Path("in/a.png"))
    status, out, _ = osediff("upscale", "in", "in/a.png", "-o", "out", *model, "--json")
    assert status == 0 and json.loads(out)["restored"] == 1


@pytest.mark.parametrize("output", ["file/out.png", "file/sub/", "taken.png"])
def test_unwritable_output_is_found_before_the_model_loads(osediff, output):
    save_photo(Path("in.png"))
    Path("file").write_text("in the way")
    Path("taken.png/in.png").mkdir(parents=True)
    status, _, err = osediff("upscale", "in.png", "-o", output, "--base", "no-such-base")
    assert status == 1 and "-o" in err and "no-such-base" not in err


def test_a_model_that_cannot_be_loaded_ends_the_run(osediff, small):
    save_photo(Path("a.png"))
    save_photo(Path("b.png"))
    status, out, err = osediff("upscale", "a.png", "b.png", "-o", "out", "--base", "no-such-base", "--json")
    assert status == 1 and json.loads(out)["kind"] == "BaseModelError" and len(err.splitlines()) == 1
    status, _, err = osediff("upscale", "a.png", "-o", "out", "--base", small.base, "--weights", "a.png")
    assert status == 1 and "a.png" in err and len(err.splitlines()) == 1


def test_what_the_output_format_cannot_hold_is_said_before_the_work(osediff):
    save_photo(Path("in.png"), mode="RGBA")
    status, _, err = osediff("upscale", "in.png", "-o", "out.jpg", "--base", "no-such-base")
    assert status == 1 and "transparency" in err and "no-such-base" not in err


def test_animation_is_noted(osediff, model):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save("in.gif", save_all=True, append_images=frames[1:])
    status, out, err = osediff("upscale", "in.gif", "-o", "out", *model, "--json")
    assert status == 0 and "only the first" in err
    assert "only the first" in json.loads(out)["results"][0]["notes"][0]


def test_debug_shows_the_traceback(osediff):
    Path("in.png").write_text("text")
    _, _, err = osediff("upscale", "in.png", "-o", "out.png", "--debug")
    assert "Traceback" in err


def test_convert_and_info(osediff, small):
    status, out, _ = osediff("convert", small.weights, "a.safetensors", "--json")
    assert status == 0 and json.loads(out)["bytes"] == Path("a.safetensors").stat().st_size
    assert osediff("convert", "a.safetensors", "half.safetensors", "--dtype", "fp16")[0] == 0
    assert Path("half.safetensors").stat().st_size < 0.6 * Path("a.safetensors").stat().st_size
    assert osediff("convert", "a.safetensors", "again.pkl")[0] == 0
    facts = [json.loads(osediff("info", p, "--json")[1]) for p in (small.weights, "again.pkl")]
    assert facts[0]["kind"] == "osediff" and facts[0]["weights"] == facts[1]["weights"]
    status, out, _ = osediff("info", small.base)
    assert status == 0 and str(small.base) in out


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["convert", "missing.pkl", "a.safetensors"], 1),
        (["convert", "text.pkl", "a.safetensors"], 1),
        (["convert", "text.pkl", "a.onnx"], 2),
        (["convert", "text.pkl", "text.pkl"], 2),
        (["info", "missing"], 1),
        (["info", "text.pkl"], 1),
        (["nonsense"], 2),
    ],
)
def test_convert_and_info_explain_what_is_wrong(osediff, args, status):
    Path("text.pkl").write_text("hello")
    got, out, err = osediff(*args)
    assert got == status and out == "" and len(err.splitlines()) == 1 and err.startswith("osediff: error: ")


def test_version(osediff):
    assert osediff("--version") == (0, f"osediff {osediff_core.__version__}\n", "")
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{osediff_core.__version__}"' in pyproject


def test_the_default_metrics_are_metrics():
    assert parse_metrics(DEFAULT)


@pytest.mark.parametrize("options", [["upscale", "x", "-o", "y", "--scale", "0"], ["--help"]])
def test_help_and_wrong_options_do_not_wait_for_torch(options):
    probe = (
        f"import sys; from osediff_core.cli.main import main\ntry: main({options})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'ray', 'pyarrow') if m in sys.modules])"
    )
    heavy = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT)
    assert heavy.stdout.strip().splitlines()[-1] == "[]", heavy.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_keeps_what_is_finished(small, tmp_path):
    for number in range(60):
        save_photo(tmp_path / f"in/{number:03}.png", size=(48, 48), seed=number)
    child = "import sys; from osediff_core.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", child, "upscale", tmp_path / "in", "-o", tmp_path / "out", "--json"]
    command += ["--base", small.base, "--weights", small.weights, "--device", "cpu"]
    process = subprocess.Popen(
        [str(c) for c in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    report = json.loads(out)
    assert report["interrupted"] and report["restored"] + report["not_done"] == 60
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len(written) == report["restored"] > 0 and all(name.endswith(".png") for name in written)
    for name in written:
        assert size_of(tmp_path / "out" / name) == (192, 192)


@pytest.mark.skipif(not TINY.is_dir(), reason="the embedded model is not in this checkout")
def test_the_default_needs_no_model_named(osediff):
    save_photo(Path("in.png"))
    status, _, err = osediff("upscale", "in.png", "-o", "out.png", "--device", "cpu")
    assert status == 0, err
    assert size_of("out.png") == (48, 40)
    assert osediff("info", "tiny")[0] == 0


@pytest.mark.parametrize("moment", ["set_levels", "_show"])
def test_an_interrupt_outside_of_the_work_is_one_too(moment, monkeypatch, capsys):
    """Before the command line is read, and while what came of it is shown."""
    from osediff_core.cli import main as command

    original, calls = getattr(command, moment), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(command, moment, interrupted)
    assert command.main(["info", "tiny", "--json"]) == 130
    assert "osediff: error: interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["info", "a\0b"], ["degrade", "a.png", "-o", "a\0b"], ["tag", "\0"]])
def test_a_nul_is_no_part_of_a_command_line(osediff, argv):
    """No shell gives one, a program that calls `main` may."""
    status, _, err = osediff(*argv)
    assert status == 2 and "holds a NUL" in err


def test_completion_says_what_it_lacks(osediff, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    status, _, err = osediff("completion", "zsh")
    assert status == 1 and "pip install shtab" in err
