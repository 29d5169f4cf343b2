"""Ways in and out of the command: streams, names, metadata, what is told to people and to programs."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_cases import ROOT, document, validate
from PIL import Image

from osediff_core import atomic
from osediff_core.cli.completion import SHELLS
from osediff_core.cli.main import COMMANDS


@pytest.fixture(autouse=True)
def pictures(tmp_path):
    """a.png, and in/ with 0.png to 3.png; paths are relative to the folder of `osediff`."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{number}.png")
    shutil.copy(tmp_path / "in/0.png", tmp_path / "a.png")
    return tmp_path


def test_help_has_examples_exit_codes_and_the_docs(osediff):
    bare = osediff()
    assert bare == osediff("--help") and bare[0] == 0
    for name in COMMANDS:
        status, out, _ = osediff(name, "--help")
        assert (status == 0 and f"\n  osediff {name}" in out) or "| osediff" in out
        assert "exit codes:" in out and "docs/cli.md" in out


def test_a_name_of_ones_own(osediff):
    osediff("degrade", "in", "-o", "out", "--name", "{number:02}_{stem}_x4")
    assert sorted(os.listdir("out")) == ["01_0_x4.png", "02_1_x4.png", "03_2_x4.png", "04_3_x4.png"]
    assert osediff("degrade", "a.png", "-o", "b.png", "--name", "{stem}2")[0] == 2


def test_a_dry_run_writes_nothing(osediff, small):
    Path("in/bad.png").write_bytes(b"no picture")
    status, out, _ = osediff("upscale", "in", "-o", "out", "--dry-run", "--scale", "2", "--json")
    data = document(out)
    assert status == 1 and (data["restored"], data["planned"], data["failed"]) == (0, 4, 1)
    assert [one["output_size"] for one in data["results"] if one["status"] == "planned"] == [[24, 20]] * 4
    status, out, _ = osediff("degrade", "a.png", "-o", "out", "--dry-run")
    assert (status, out.splitlines()[0]) == (0, f"a.png -> {os.path.join('out', 'a.png')} (3x3)")
    assert not Path("out").exists()
    for wrong in (["--base", "nowhere"], ["--weights", "nothing.pkl"]):
        assert osediff("upscale", "a.png", "-o", "o.png", "--dry-run", *wrong)[0] == 1


def test_jpeg_quality(osediff):
    Image.effect_noise((256, 256), 80).convert("RGB").save("noise.png")
    for quality in ("20", "99"):
        osediff(
            "degrade", "noise.png", "-o", f"{quality}.jpg", "--jpeg-quality", quality, "--preset", "light"
        )
    assert Path("20.jpg").stat().st_size < 0.7 * Path("99.jpg").stat().st_size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("deep", [False, True])
def test_metadata_are_kept_where_that_is_asked(osediff, small, suffix, deep):
    exif = Image.Exif()
    exif[0x10F], exif[0x112] = "Maker", 6
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure
    exif.get_ifd(0x8825)[1] = "N"
    Image.new("RGB", (12, 10), "teal").save("a.jpg", exif=exif, dpi=(300, 150))
    source = "a.jpg"
    if deep:
        if suffix not in (".png", ".tif"):
            pytest.skip("8 bits")
        from dataclasses import replace

        from osediff_core.images import read_image, write_image

        write_image("deep.png", replace(read_image("a.jpg"), bits=16), metadata=True)
        source = "deep.png"
    model = ["--base", small.base, "--weights", small.weights, "--device", "cpu", "--scale", "2"]
    for options, kept in (([], False), (["--keep-metadata"], True)):
        assert osediff("upscale", source, "-o", f"o{suffix}", *model, *options)[0] == 0
        with Image.open(f"o{suffix}") as image:
            found = image.getexif()
            assert image.size == (20, 24) and found.get(0x112, 1) == 1  # upright, and said to be
            assert (found.get(0x10F) == "Maker") == kept
            if suffix != ".tif":
                details = found.get_ifd(0x8769)
                assert (details.get(0x829A) is not None) == kept and found.get_ifd(0x8825).get(1) == (
                    "N" if kept else None
                )
                assert details.get(0xA002) == (20 if kept else None)
            if kept:
                dpi = image.info.get("dpi") or (found.get(282), found.get(283))
                assert [round(float(value)) for value in dpi] == [300, 150]


class Stdin(io.TextIOWrapper):
    """Standard input with these bytes."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))


def test_standard_input_and_output(osediff, monkeypatch, tmp_path):
    data = Path("a.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", Stdin(data))
    assert osediff("degrade", "-", "-o", "out")[0] == 0 and os.listdir("out") == ["stdin.png"]
    command = [sys.executable, "-m", "osediff_core", "degrade", "-", "-o", "-", "--format", "webp"]
    done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "WEBP" and image.size == (3, 3)
    for bad, said in ((b"", "standard input is empty"), (b"text", "standard input is not an image")):
        monkeypatch.setattr(sys, "stdin", Stdin(bad))
        status, _, err = osediff("degrade", "-", "-o", "b.png")
        assert status == 1 and said in err
    assert osediff("degrade", "a.png", "-o", "-", "--json")[0] == 2


def test_json_before_and_behind_and_its_schema(osediff, small):
    model = ["--base", small.base, "--weights", small.weights, "--device", "cpu", "--scale", "1"]
    lines = [
        ["upscale", "a.png", "nothing.png", "-o", "out", *model],
        ["degrade", "in", "-o", "bad"],
        ["tag", "a.png", "--dape", "tiny"],
        ["convert", small.weights, "o.safetensors"],
        ["info", small.weights],
        ["info", small.base],
        ["download", "--list"],
        ["doctor"],
        ["completion", "bash"],
        ["upscale", "a.png", "-o", "r.bmp"],
        ["info", "nothing"],
        ["nonsense"],
        [],
    ]
    for line in lines:
        first, last = osediff("--json", *line), osediff(*line, "--json")
        data = document(first[1])
        assert first[0] == last[0] and data.keys() == document(last[1]).keys()
        assert data["schema_version"] == 1 and data.get("command", line[0] if line else None) in (*line, None)
    found = document(osediff("--json", *lines[0])[1])
    assert [(r["status"], r["kind"]) for r in found["results"]] == [
        ("failed", "ImageError"),
        ("restored", None),
    ]


def test_evaluate_keeps_the_schema(osediff):
    pytest.importorskip("torchmetrics", reason="the eval extra is not installed")
    Path("in/4.png").write_bytes(b"")
    status, out, _ = osediff("evaluate", "in", "in", "--metrics", "psnr", "-o", "found", "--json")
    data = document(out)
    assert status == 1 and data["failed"][0]["kind"] == "ImageError"
    assert document(Path("found/evaluation.json").read_text()) == data


def test_lines_of_json(osediff, small):
    model = [
        "--base",
        small.base,
        "--weights",
        small.weights,
        "--device",
        "cpu",
        "--size",
        "80x64",
        "--tile",
        "8",
    ]
    status, out, _ = osediff("upscale", "in/0.png", "in/1.png", "-o", "out", "--json-lines", *model)
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and events[0] == {"event": "start", "command": "upscale", "total": 2}
    kinds = [event["event"] for event in events]
    assert kinds[1] == "picture" and kinds.count("result") == 2 and kinds[-1] == "end"
    steps = [event for event in events if event["event"] == "step"]
    assert steps and all(0 < step["done"] <= step["total"] for step in steps)
    end = events[-1]
    validate(end)
    results = [
        {k: v for k, v in e.items() if k not in ("event", "index")} for e in events if e["event"] == "result"
    ]
    assert results == end["results"]
    status, out, _ = osediff("--json-lines", "upscale", "a.png", "-o", "r.bmp")
    assert status == 2 and json.loads(out)["event"] == "end" and json.loads(out)["kind"] == "OptionError"
    assert osediff("degrade", "in", "-o", "d", "--json", "--json-lines")[0] == 2


def test_quiet_says_nothing_but_warnings(osediff):
    Image.new("RGB", (8, 8)).save("b.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    assert osediff("degrade", "in", "-o", "out", "-q") == (0, "", "")
    status, out, err = osediff("-q", "degrade", "b.gif", "-o", "out")
    assert (status, out, len(err.splitlines())) == (0, "", 1) and "only the first" in err
    assert osediff("tag", "a.png", "--dape", "tiny", "--quiet")[1].startswith("a.png: ")
    assert osediff("degrade", "in", "-qo", "out2")[1:] == ("", "")


def test_a_full_disk_ends_the_run(osediff, monkeypatch):
    def full(descriptor, written=[]):  # noqa: B006 - counts calls
        written.append(1)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_sync_folder", lambda _: None)
    monkeypatch.setattr(os, "fsync", full)
    status, out, err = osediff("degrade", "in", "-o", "out", "--json")
    data = document(out)
    assert status == 1 and (data["degraded"], data["failed"], data["not_done"]) == (1, 1, 2)
    assert data["results"][-1]["kind"] == "DiskFull" and "space" in data["results"][-1]["error"]
    assert os.listdir("out") == ["0.png"] and len([line for line in err.splitlines() if "error" in line]) == 1


NASTY = "\x1b[31mred\x1b]0;title\x07\r\nosediff: all is well\x7f\x9b2J\u202egnp"


def plain(text):
    return not any(c in text for c in "\x1b\x07\r\x7f\x9b\u202e") and "\nosediff: all is well" not in text


@pytest.mark.skipif(os.name == "nt", reason="such names are impossible")
@pytest.mark.parametrize("command", ["degrade", "upscale", "tag", "evaluate"])
def test_control_characters_in_names_are_escaped(osediff, command):
    folder = Path(f"in{NASTY}")
    folder.mkdir()
    shutil.copy("a.png", folder / f"a{NASTY}.png")
    (folder / f"b{NASTY}.png").write_bytes(b"no picture")
    (folder / f"c{NASTY}.heic").write_bytes(b"x")
    line = {
        "degrade": [folder, "-o", f"out{NASTY}/"],
        "upscale": [folder, "-o", "out", "--dry-run"],
        "tag": [folder, "--dape", "tiny"],
        "evaluate": [folder, folder, "-o", "found", "--metrics", "psnr", "--title", NASTY],
    }[command]
    if command == "evaluate":
        pytest.importorskip("torchmetrics", reason="the eval extra is not installed")
    for extra in ([], ["--json"], ["--debug"]):
        status, out, err = osediff(command, *line, *extra)
        assert status == 1 and plain(out) and plain(err), (extra, out, err)
    assert "x1b[31mred" in err
    for path in Path("found").glob("*"):
        assert plain(path.read_text(encoding="utf-8")), path


def test_control_characters_in_weights_are_escaped(osediff):
    from safetensors.torch import load_file, save_file

    tiny = ROOT / "osediff_core" / "tiny" / "osediff.safetensors"
    from safetensors import safe_open

    with safe_open(tiny, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(tiny), "a.safetensors", {**metadata, "comment": NASTY})
    for extra in ([], ["--json"]):
        status, out, err = osediff("info", "a.safetensors", *extra)
        assert status == 0 and plain(out) and plain(err) and "31mred" in out
    status, out, err = osediff("upscale", "a.png", "-o", "o.png", f"--{NASTY}")
    assert status == 2 and plain(err)


def test_info_says_which_published_file_it_is(osediff, small, monkeypatch):
    import hashlib

    from osediff_core.weights import digest
    from osediff_core.weights.published import Digest, KnownFile, WebPlace

    content = small.weights.read_bytes()
    sha = hashlib.sha256(content).hexdigest()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    for right in (Digest("sha256", sha), Digest("git-sha1", git)):
        for name, kind in (("known.pkl", "right"), ("osediff.pkl", "wrong")):
            value = right if kind == "right" else Digest(right.kind, "0" * len(right.value))
            known = KnownFile(name, WebPlace("https://example.org/x"), value, 1, "MIT", "a test", "osediff")
            monkeypatch.setattr(digest.check_published, "__defaults__", ((known,),))
            status, out, err = osediff("info", small.weights, "--json")
            data = document(out)
            assert status == 0 and data["sha256"] == sha
            assert data["published"] == ("known.pkl" if kind == "right" else None)
            assert ("has the name of the published osediff.pkl, but another content" in err) == (
                kind == "wrong"
            )


def test_doctor_knows_what_is_missing(osediff, monkeypatch):
    from importlib import metadata

    version = metadata.version

    def without(name):
        if name in ("diffusers", "pyiqa"):
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "pillow" else version(name)

    data = document(osediff("doctor", "--json")[1])
    assert data["devices"][-1]["name"] == "cpu" and data["models"]["tiny"] and data["formats"]["webp"]
    monkeypatch.setattr(metadata, "version", without)
    status, out, _ = osediff("doctor")
    assert status == 1 and "diffusers is missing: needed for everything; pip install" in out
    assert "pillow is of a version that is not >=" in out
    assert "pyiqa is missing: needed for the metrics of osediff evaluate; pip install 'osediff[eval]'" in out


@pytest.mark.parametrize("shell", SHELLS)
def test_completion(osediff, shell):
    script = osediff("completion", shell)[1]
    assert "upscale" in script and "keep-metadata" in script and "wavelet" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_bash_completes_commands_and_options(osediff):
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    script = osediff("completion", "bash")[1]
    asked = "COMP_WORDS=(osediff upscale --keep); COMP_CWORD=2; _shtab_osediff osediff --keep upscale"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}; echo ${{COMPREPLY[@]}}"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["--keep-metadata"], done.stderr
