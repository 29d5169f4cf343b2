"""Mapped memory that is given back: less of it, and the same values; any other memory is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from osediff_core.weights.mapped import Mapped, read_ahead

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which memory is mapped")
def test_pages_of_a_file_are_given_back_and_come_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({name: torch.full((8 * MIB,), value) for name, value in (("a", 1.0), ("b", 2.0))}, path)
    read_ahead([path, tmp_path / "nothing.safetensors"])
    with safe_open(path, "pt") as file:
        mapped = {name: file.get_tensor(name) for name in file.keys()}
    own = torch.full((8 * MIB,), 3.0)
    assert [float(t.sum()) / (8 * MIB) for t in (*mapped.values(), own)] == [1, 2, 3]
    ranges, before = Mapped.now(), psutil.Process().memory_info().rss
    for tensor in (mapped["a"], own, own[5:9], torch.empty(0), mapped["b"][::2]):
        ranges.let_go(tensor)
    assert 30 * MIB < before - psutil.Process().memory_info().rss < 40 * MIB  # a, and nothing else
    assert [float(t.sum()) / (8 * MIB) for t in (*mapped.values(), own)] == [1, 2, 3]
