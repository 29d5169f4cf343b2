"""Shards, and devices side by side: the same pictures and records as one loop gives, whatever ends meanwhile."""

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

ROOT = Path(__file__).parents[2]

# Read by Python at its start, in every process: the machine that dies of one picture.
POISON = """
import os, pathlib
def read_bytes(self, read=pathlib.Path.read_bytes):
    if self.name == "poison.png":
        os._exit(7)
    return read(self)
pathlib.Path.read_bytes = read_bytes
"""


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 12 + number, 3), dtype=np.uint8)
        (folder / f"sub{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"sub{number % 2}" / f"{number}.png")
    return folder


@pytest.fixture
def options(small):
    return ["--recursive", "--base", small.base, "--weights", small.weights, "--scale", "2"]


def start(folder, *args):
    command = [sys.executable, "-m", "osediff_core", "upscale", folder / "in", *args]
    paths = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(one) for one in command], cwd=folder, env=environment, **piped)


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_are_all_pictures_once_each_and_on_every_machine_the_same(osediff, pictures, options):
    def planned(*extra):
        status, out, _ = osediff("upscale", pictures, "-o", "out", *options, "--dry-run", "--json", *extra)
        assert status == 0
        return {record["input"] for record in json.loads(out)["results"]}

    parts = [planned("--shard", f"{number}/3") for number in (1, 2, 3)]
    assert set.union(*parts) == planned() and sum(map(len, parts)) == 9
    elsewhere = pictures.rename(pictures.with_name("elsewhere"))
    status, out, _ = osediff(
        "upscale", elsewhere, "-o", "o", *options, "--dry-run", "--json", "--shard", "2/3"
    )
    assert status == 0
    assert {record["input"].replace("elsewhere", "in") for record in json.loads(out)["results"]} == parts[1]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/3", "one/3"])
def test_a_shard_that_there_is_not_is_refused(osediff, pictures, shard):
    status, _, err = osediff("upscale", pictures, "-o", "out", f"--shard={shard}")
    assert status == 2 and "--shard" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("device", ["cpu,nonsense", "cpu,", "cpu,cuda:99"])
def test_devices_that_there_are_not_are_refused(osediff, pictures, device):
    status, _, err = osediff("upscale", pictures, "-o", "out", "--recursive", "--device", device)
    assert status == 2 and len(err.splitlines()) == 1 and not Path("out").exists()


def test_standard_input_is_for_one_device(osediff):
    status, _, err = osediff("upscale", "-", "-o", "out.png", "--device", "cpu,cpu")
    assert status == 2 and "Standard input" in err


@pytest.mark.slow
def test_two_devices_give_what_one_gives_and_outlive_a_picture_that_ends_them(
    tmp_path, osediff, pictures, options
):
    (pictures / "sub0/cut.png").write_bytes((pictures / "sub0/0.png").read_bytes()[:90])
    status, out, _ = osediff("upscale", "in", "-o", "one", *options, "--device", "cpu", "--json")
    assert status == 1
    alone = {record["input"]: record for record in json.loads(out)["results"]}
    (pictures / "poison.png").write_bytes((pictures / "sub0/0.png").read_bytes())
    (tmp_path / "sitecustomize.py").write_text(POISON)
    process = start(tmp_path, "-o", "two", *options, "--device", "cpu,cpu", "--json-lines")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in err, err
    *events, report = map(json.loads, out.splitlines())
    assert (report["restored"], report["failed"], report["not_done"]) == (9, 2, 0)
    records = {os.path.relpath(record["input"], tmp_path): record for record in report["results"]}
    poison = records.pop(os.path.join("in", "poison.png"))
    assert poison["kind"] == "WorkerDied" and "3 times (exit code 7)" in poison["error"]
    for name, record in records.items():
        for own in ("seconds", "input", "output", "error"):
            assert (record.pop(own) is None) == (alone[name].pop(own) is None)
        assert record == alone[name]
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    ended = [event["index"] for event in events if event["event"] == "result"]
    assert sorted(ended) == list(range(11)) and events[0] == {
        "event": "start",
        "command": "upscale",
        "total": 11,
    }


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_reaches_all_devices(tmp_path, options):
    (tmp_path / "in").mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number:02}.png")
    command = ["-o", "out", *options, "--device", "cpu,cpu", "--json"]
    process = start(tmp_path, *command)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    import psutil

    children = psutil.Process(process.pid).children(recursive=True)
    for one in [psutil.Process(process.pid), *children]:  # as a terminal does
        one.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    report = json.loads(out)
    assert report["interrupted"] and report["restored"] + report["not_done"] == 40
    assert len(list((tmp_path / "out").iterdir())) == report["restored"] > 0  # and no temporary files
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_pictures_are_measured_side_by_side(osediff, pictures):
    results = pictures / "sub0"
    for path in results.iterdir():
        pixels = np.asarray(Image.open(path)) // 2
        (pictures / "truth").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(pictures / "truth" / path.name)
    (results / "8.png").write_bytes(b"broken")
    command = [
        "evaluate",
        results,
        pictures / "truth",
        "--lq",
        pictures / "truth",
        "--metrics",
        "psnr,ssim",
        "--json",
    ]
    status, alone, err = osediff(*command, "--device", "cpu")
    assert status == 1, err
    assert osediff(*command, "--device", "cpu,cpu")[:2] == (1, alone)
