"""docs/benchmarks.md says what was measured, and nothing that was not."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks.report import markdown

DOCS = Path(__file__).parents[2] / "docs"
PEAK = {name: {"matmul": 100.0, "conv": 200.0} for name in ("float32", "bfloat16")}
MACHINE = {"processor": "x", "capability": "y", "cores": 2, "threads": 2, "torch": "3", "busy": 0.0}
VAE_ROW = {
    "name": "untiled",
    "vae": "tiny",
    "direction": "decode",
    "size": 64,
    "cpu_s": 1.0,
    "peak_bytes": 10**9,
}


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_the_page_is_made_of_its_numbers() -> None:
    text = (DOCS / "benchmarks.json").read_text(encoding="utf-8")
    report = json.loads(text, parse_constant=_no_constant)
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == markdown(report)
    assert set(report) >= {
        "peak",
        "speed512",
        "speed1024",
        "vae_tiny",
        "vae_1024",
        "vae_2048",
        "unet",
        "megapixels",
    }
    assert set(report["machines"]) == set(report) - {"machines"}


def test_what_the_docs_point_to_is_on_the_page() -> None:
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md")]
    links = {
        link
        for file in pages
        for link in re.findall(r"benchmarks\.md#([\w-]+)", file.read_text(encoding="utf-8"))
    }
    assert links and links <= anchors


def test_parts_that_were_not_measured_are_left_out() -> None:
    page = markdown({"machines": {"peak": MACHINE}, "peak": PEAK})
    assert "| float32 | 100 | 200 |" in page and "megapixel" not in page
    assert "Measured on x (y), 2 cores" in page


def test_parts_from_different_machines_are_told_apart() -> None:
    row = {**dict.fromkeys(("encode", "denoise", "decode", "faster"), 1.0), "psnr": 50.0, "max error": 0.1}
    row |= {"memory": 1}
    speed = {"pixels": 512, "rows": {"diffusers": row}, "operations": dict.fromkeys(row, 10**12)}
    report: dict[str, Any] = {"peak": PEAK, "speed512": speed, "vae_tiny": [{**VAE_ROW, "psnr": None}]}
    other = {**MACHINE, "processor": "z"}
    same = markdown({**report, "machines": dict.fromkeys(report, MACHINE)})
    assert "different machines" not in same and "share of the peak" in same
    apart = markdown({**report, "machines": {"peak": MACHINE, "vae_tiny": MACHINE, "speed512": other}})
    assert "- `peak`, `vae_tiny`: x (y), 2 cores" in apart and "- `speed512`: z (y), 2 cores" in apart
    assert "share of the peak" not in apart, "a share of what another machine can do says nothing"


def test_parts_are_measured_anew_beside_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(processor: str, *arguments: str) -> None:
        monkeypatch.setattr(command, "machine", lambda _: {**MACHINE, "processor": processor})
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "cpu", *arguments])
        command.main()

    rows = [{**VAE_ROW, "psnr": None}]
    found = {"peak": lambda: PEAK, "vae_tiny": lambda: rows}
    monkeypatch.setattr(command, "parts", lambda *_: found)
    monkeypatch.setattr(command, "__file__", str(tmp_path / "benchmarks" / "__main__.py"))
    (tmp_path / "docs").mkdir()
    run("old")
    run("new", "--parts", "peak")
    numbers = tmp_path / "docs" / "benchmarks.json"
    measured = numbers.read_text()
    machines = {part: machine["processor"] for part, machine in json.loads(measured)["machines"].items()}
    assert machines == {"peak": "new", "vae_tiny": "old"}
    assert "`vae_tiny`: old" in numbers.with_suffix(".md").read_text()
    run("quick", "--quick")
    assert numbers.read_text() == measured, "small cases replace no measured ones"
    assert (tmp_path / "runs" / "benchmarks-quick.md").exists()
    rows[0]["psnr"] = float("inf")
    with pytest.raises(ValueError, match="JSON"):
        run("new", "--parts", "vae_tiny")
    assert numbers.read_text() == measured
