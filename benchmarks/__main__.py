"""All figures of speed, memory and exactness, in one report: docs/benchmarks.md, with its numbers and its plot.

    python -m benchmarks [--quick] [--light] [--device cuda] [--parts peak speed512 …] [--out docs/benchmarks]

An hour on two CPU cores, on a machine with nothing else to do; 25 GB of memory and 9 GB of disk. --light: a quarter of
that, for the parts peak, loading and speed512. On a GPU: the part `accelerator`, in under five minutes. What was
measured is written after each part, with the machine beside it, and how busy others kept it; --parts measures these
anew and keeps the rest. --quick: small cases, to see that all works, into runs/benchmarks-quick.
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
from osediff_core.backends.find_base import find_base

from . import accelerator, loading, megapixels, speed, tiling, unet_tiles
from .full_size import NARROW, write_full_size
from .peak import peaks
from .quiet import busy_share
from .report import markdown, plot
from .tagger import write_random
from .work import stage_operations

log = logging.getLogger("benchmarks")

Model = tuple[Path, Path]  # base and weights
LIGHT = ("peak", "loading", "speed512")
ON_GPU = ("accelerator",)
BUSY = 0.1  # share of the processors that others may take


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

    def start() -> list[dict[str, Any]]:
        from osediff_core.merged import write_merged

        base, weights = full_size()
        merged = base.parent / "merged"
        if not merged.exists():
            write_merged(merged, find_base(base), weights, dtype=torch.bfloat16, prompts=["", speed.PROMPT])
        return loading.measure(base, weights, merged, 1 if quick else 3)

    def on_accelerator() -> list[dict[str, Any]]:
        base, weights = full_size()
        ram = base.parent / "ram.pth"
        if quick:
            return accelerator.measure(base, weights, None, device, (64, 96), 1)
        write_random(ram)
        return accelerator.measure(base, weights, ram, device, (512, 1024, 2048))

    return {
        "peak": lambda: {name: peaks(device, getattr(torch, name)) for name in ("float32", "bfloat16")},
        "loading": start,
        "accelerator": on_accelerator,
        "speed512": lambda: compare(
            256 if quick else 512, *(("--rounds", "1", "--most", "1") if quick else ("--rounds", "3"))
        ),
        "speed1024": lambda: compare(
            *((768, "--rounds", "1", "--most", "1") if quick else (1024, "--rounds", "2", "--most", "4")),
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
        "busy": round(busy_share(), 3),
    }


def main() -> None:
    """The command line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--light", action="store_true")
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
                sizes = NARROW if args.quick and args.device != "cpu" else None
                written.append(write_full_size(Path(scratch), sizes))
            return written[0]

        wanted = args.parts or (ON_GPU if args.device != "cpu" else LIGHT if args.light else None)
        for name, measure in parts(args.quick, args.device, full_size).items():
            if name not in wanted if wanted else name in ON_GPU:
                continue
            found = machine(args.device)
            log.info(
                "%s, on %s, which others keep busy by %.0f %%", name, found["processor"], 100 * found["busy"]
            )
            if found["busy"] > BUSY:
                log.warning("the machine is not quiet: seconds will say little")
            report[name] = measure()
            report["machines"][name] = found
            text = json.dumps(report, indent=1, allow_nan=False) + "\n"
            write_bytes_atomically(numbers, text.encode())
    write_bytes_atomically(out.with_suffix(".md"), markdown(report).encode())
    plot(report, out.with_suffix(".png"))
    log.info("%s", out.with_suffix(".md"))


if __name__ == "__main__":
    main()
