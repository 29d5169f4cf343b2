"""A short run of `python -m tests.fuzz`, which tries thousands of bad inputs (docs/reliability.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the inputs are forks of one process")
def test_bad_inputs_of_every_family_get_a_sentence(tmp_path: Path) -> None:
    """Then the same again, which has nothing left to do."""
    state, page = tmp_path / "state.jsonl", tmp_path / "page.md"
    page.write_text("# A page\n\n<!-- made by python -m tests.fuzz --table -->\n<!-- end -->\n\nThe end.\n")
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--count",
        "48",
        "--seed",
        "20261129",
        "--state",
        str(state),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--table", str(page)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in state.read_text().splitlines()]
    assert len(rows) == len({row["digest"] for row in rows}) >= 48
    assert {row["family"] for row in rows} == {
        "images",
        "checkpoints",
        "bases",
        "options",
        "paths",
        "signals",
    }
    assert {0, 1, 2} <= {row["status"] for row in rows}
    assert f"| **all** | {len(rows)} |" in page.read_text() and page.read_text().endswith("The end.\n")
