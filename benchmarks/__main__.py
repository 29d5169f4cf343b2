"""All figures of speed, memory and exactness, in one report: docs/benchmarks.md, with its numbers and its plot.

    python -m benchmarks [--quick] [--parts peak speed512 …] [--out docs/benchmarks]

An hour on two CPU cores, on a machine with nothing else to do; 25 GB of memory and 6 GB of disk. What was measured is
written after each part, with the machine beside it; --parts measures these anew and keeps the rest. --quick: small
cases, to see that all works, into runs/benchmarks-quick.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from osediff_core.atomic import write_bytes_atomically

from . import megapixels, speed, tiling, unet_tiles
from .full_size import write_full_size
from .peak import peaks
from .report import markdown, plot
from .work import stage_operations

log = logging.getLogger("benchmarks")

Model = tuple[Path, Path]  # base and weights


def parts(quick: bool, device: str, full_size: Callable[[], Model]) -> dict[str, Callable[[], Any]]:
    """What there is to measure, by name, in order."""
    sides = [256, 512] if quick else [512, 1024, 2048, 4096]
    half = "bf16" if device == "cpu" else "fp16"

    def compare(pixels: int, *options: str) -> dict[str, Any]:
        base, weights = full_size()
        args = speed.parse(["--pixels", str(pixels), "--device", device, *options])
        args.base, args.weights = base, weights
        return {
            "pixels": pixels,
            "rows": speed.measure(args),
            "operations": stage_operations(pixels) if pixels <= 512 else None,
        }

    return {
        "peak": lambda: {name: peaks(device, getattr(torch, name)) for name in ("float32", "bfloat16")},
        "speed512": lambda: compare(256 if quick else 512, "--rounds", "1" if quick else "3"),
        "speed1024": lambda: compare(
            *((768, "--rounds", "1") if quick else (1024, "--rounds", "2")),
            *("--variants", f"ours-{half}", f"ours-{half}, balanced tiles", f"ours-{half}, whole"),
        ),
        "megapixels": lambda: [
            {"model": "tiny", **row}
            for attention in ("auto", "pooled")
            for row in megapixels.measure("tiny", None, sides, "fp32", device, attention)
        ],
        "megapixels_full": lambda: [
            {"model": "full", **row} for row in megapixels.measure(*full_size(), sides[:-1], half, device)
        ],
        **{
            name: partial(tiling.measure_both, *case)
            for name, case in (tiling.QUICK if quick else tiling.CASES).items()
        },
        "unet": partial(unet_tiles.measure, 512, 1) if quick else partial(unet_tiles.measure, 512, 4),
    }


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    named = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": torch.cuda.get_device_name() if device != "cpu" else (named or [platform.machine()])[0],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """The command line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=parts(False, device, lambda: ("", "")))
    parser.add_argument("--device", default=device)
    parser.add_argument("--out", type=Path, help="file name without suffix (default: docs/benchmarks)")
    args = parser.parse_args()
    out = args.out or root / ("runs/benchmarks-quick" if args.quick else "docs/benchmarks")
    out.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    numbers = out.with_suffix(".json")
    report = json.loads(numbers.read_text()) if numbers.exists() else {"machines": {}}
    with tempfile.TemporaryDirectory() as scratch:
        written: list[Model] = []

        def full_size() -> Model:
            if not written:
                log.info("writing a model of full size")
                written.append(write_full_size(Path(scratch)))
            return written[0]

        for name, measure in parts(args.quick, args.device, full_size).items():
            if args.parts and name not in args.parts:
                continue
            log.info("%s", name)
            report[name] = measure()
            report["machines"][name] = machine(args.device)
            text = json.dumps(report, indent=1, allow_nan=False) + "\n"
            write_bytes_atomically(numbers, text.encode())
    write_bytes_atomically(out.with_suffix(".md"), markdown(report).encode())
    plot(report, out.with_suffix(".png"))
    log.info("%s", out.with_suffix(".md"))


if __name__ == "__main__":
    main()
