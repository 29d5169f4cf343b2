"""Benchmarks that are prepared for machines which are not here run through at small size."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from fake_device import fake_device

from benchmarks import accelerator, loading
from benchmarks.full_size import NARROW, write_full_size
from benchmarks.quiet import busy_share, is_narrow, ratio_interval
from osediff_core.backends.speed import Speed

Model = tuple[Path, Path]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return write_full_size(tmp_path_factory.mktemp("narrow"), NARROW)


def test_the_accelerators_page_is_measured_and_a_failure_stops_nothing(
    narrow: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {"fp32": ("fp32", Speed()), "odd": ("fp5", Speed()), "bf16": ("bf16", Speed())}
    monkeypatch.setattr(accelerator, "VARIANTS", variants)
    rows = accelerator.measure(*narrow, None, "cpu", (64, 96), runs=1)
    assert [(row["name"], row["side"], "failed" in row) for row in rows] == [
        ("fp32", 64, False), ("fp32", 96, False), ("odd", 64, True), ("bf16", 64, False)
    ]  # fmt: skip
    for row in rows:
        if "failed" not in row:
            stages = {name: value for name, value in row["seconds"].items() if name != "whole"}
            assert row["seconds"]["whole"] >= 0.9 * sum(stages.values()) > 0 and row["memory"] > 10**8
    page = accelerator.table(rows)
    assert "failed: OptionError: Precision 'fp5' is unknown" in page and len(page.splitlines()) == 6


# a module of fake tensors takes no other layout, and they are not compiled for
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_what_the_gpu_will_be_told_is_told_to_a_fake_one(
    name: str, narrow: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "VARIANTS", {name: accelerator.VARIANTS[name]})
    monkeypatch.setattr(accelerator, "WARM_UP", 1)
    for function in ("wait", "_forget", "restart_peak"):
        monkeypatch.setattr(accelerator, function, lambda device: None)
    monkeypatch.setattr(accelerator, "peak", lambda device: 1)
    with fake_device("cuda"):
        rows = accelerator.measure(*narrow, None, "cuda", (64, 160), runs=1)
    assert [row.get("failed") for row in rows] == [None] * len(rows)


def test_every_start_is_taken_apart(narrow: Model) -> None:
    case = {"name": "ours-fp32", "base": str(narrow[0]), "weights": str(narrow[1]), "device": "cpu"}
    found = loading.work(case)
    assert all(found[part] > 0 for part in loading.PARTS[1:]) and found["memory"] > 10**8
    rows = [{"name": name, "files": "cold", **found} for name in ("diffusers", "ours-fp32")]
    assert "plain diffusers, LoRA unmerged | cold" in loading.table(rows)


def test_peak_memory_is_of_the_time_since_the_restart() -> None:
    """In a process of its own, which has nothing yet that a new tensor could lie in."""
    finished = subprocess.run([sys.executable, "-c", _PEAKS], check=True, capture_output=True, text=True)
    grown, held, later = map(int, finished.stdout.split())
    assert 2**27 <= grown < 2**28 and held >= 0 and later < 2**26


_PEAKS = """
import torch
from benchmarks import memory
memory.restart_peak()
before = memory.peak()
large = torch.ones(2**25)
print(memory.peak() - before, memory.held() - before)
del large
memory.restart_peak()
print(memory.peak() - before)
"""


def test_a_ratios_interval_is_students() -> None:
    centre, low, high = ratio_interval([2.0, 2.1, 1.9])
    spread = 4.30 * math.sqrt(sum((math.log(r) - math.log(centre)) ** 2 for r in (2.0, 2.1, 1.9)) / 2 / 3)
    assert (low, high) == pytest.approx((centre * math.exp(-spread), centre * math.exp(spread)), rel=1e-3)
    assert is_narrow([2.0, 2.01, 1.99]) and not is_narrow([2.0, 2.2, 1.8]) and not is_narrow([2.0])
    assert 0 <= busy_share() <= 1
