"""How long it takes until the first picture is there: importing, loading, restoring 256 x 256 pixels.

    python -m benchmarks.loading --base FOLDER --weights FILE [--merged FOLDER] [--variants …] [--rounds 3]

The peer maps its files and reads them while it computes its first picture; ours read them while they load. So neither
time alone says who is ready first, and all three are shown. Every start is a process of its own; `cold` files were
thrown out of the system's cache before, `warm` ones were in it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .memory import peak, restart_peak
from .speed import PEER, STAGES, Ours, Peer, picture

ROOT = Path(__file__).parents[1]
SIDE = 256
OURS = {"ours-fp32": "fp32", "ours-bf16": "bf16", "ours-bf16, merged before": "bf16"}
# what both sides need
LIBRARIES = ("osediff_core.load", "training.adapters", "transformers.models.clip.modeling_clip")
PARTS = ("import", "load", "first picture")


def measure(
    base: Path, weights: Path, merged: Path | None, rounds: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """A row for each variant, cold and warm: median seconds of the parts, bytes at the most."""
    rows = []
    names = [PEER, *(name for name in OURS if merged is not None or "merged" not in name)]
    for state in ("cold", "warm"):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                case = {"name": name, "base": str(base), "weights": str(weights), "device": device}
                if "merged" in name:
                    case |= {"base": str(merged), "weights": None}
                _prepare(Path(case["base"]), state)
                command = [sys.executable, "-m", "benchmarks.loading", "--worker", json.dumps(case)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
        for name, starts in found.items():
            figures = {key: median(start[key] for start in starts) for key in starts[0]}
            rows.append({"name": name, "files": state, "rounds": rounds, **figures})
    return rows


def _prepare(base: Path, state: str) -> None:
    """All files of the base out of the system's cache, or into it."""
    for path in base.glob("*/*.safetensors"):
        with path.open("rb") as file:
            if state == "cold":
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(2**24):
                    pass


def work(case: dict[str, Any]) -> dict[str, float]:
    """One start: seconds of its parts, the most memory while loading and while restoring."""
    found, start = {}, time.perf_counter()
    for name in LIBRARIES:
        importlib.import_module(name)
    found["import"], start = time.perf_counter() - start, time.perf_counter()
    base, weights = Path(case["base"]), case["weights"] and Path(case["weights"])
    if case["name"] == PEER:
        model: Peer | Ours = Peer(base, weights, case["device"])
    else:
        model = Ours(base, weights, case["device"], {"dtype": OURS[case["name"]]})
    found["load"], found["load memory"] = time.perf_counter() - start, peak(case["device"])
    restart_peak(case["device"])
    stages, value, start = model.stages(picture(SIDE).to(case["device"])), None, time.perf_counter()
    with torch.inference_mode():
        for name in STAGES:
            value = stages[name](value)
    float(value.sum())  # an accelerator is waited for
    found["first picture"], found["memory"] = time.perf_counter() - start, peak(case["device"])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    heads = ["", "files", *(f"{part} s" for part in PARTS), "**until then s**", "load GB", "picture GB"]
    lines = [heads, ["---", "---"] + ["---:"] * (len(heads) - 2)]
    for row in rows:
        name = "plain diffusers, LoRA unmerged" if row["name"] == PEER else row["name"]
        line = [name, row["files"], *(f"{row[part]:.1f}" for part in PARTS)]
        line += [f"**{sum(row[part] for part in PARTS):.1f}**"]
        line += [f"{row[key] / 1e9:.2f}" for key in ("load memory", "memory")]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--merged", type=Path, help="by osediff convert --merge, in bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(json.loads(args.worker))), flush=True)  # noqa: T201
    else:
        print(table(measure(args.base, args.weights, args.merged, args.rounds)))  # noqa: T201


if __name__ == "__main__":
    main()
