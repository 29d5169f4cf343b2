"""docs/benchmarks.md says what was measured, and nothing that was not."""

import json
from pathlib import Path

from benchmarks.report import markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_made_of_its_numbers():
    report = json.loads((DOCS / "benchmarks.json").read_text(encoding="utf-8"))
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == markdown(report)
    assert set(report) >= {"machine", "peak", "speed512", "speed1024"}


def test_parts_that_were_not_measured_are_left_out():
    machine = {"processor": "x", "capability": "y", "cores": 2, "threads": 2, "torch": "3"}
    peak = {name: {"matmul": 100.0, "conv": 200.0} for name in ("float32", "bfloat16")}
    page = markdown({"machine": machine, "peak": peak})
    assert "| float32 | 100 | 200 |" in page and "megapixel" not in page
