"""What a megapixel costs, from small pictures to large ones: seconds by stage and peak memory.

    python -m benchmarks.megapixels [--model tiny|full] [--sides 512 1024 2048 4096] [--dtype fp32]
                                    [--attention auto|exact|pooled] [--grid official]

"full" is SD 2.1's size with random weights. Every size is restored in a process of its own, with the default tiles of
the UNet and the memory that is free. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from osediff_core import OneStepGenerator
from osediff_core.choices import VAE_ATTENTIONS
from osediff_core.tiles.unet import UNetTiling
from osediff_core.tiles.vae import VAETiling

from .full_size import write_full_size
from .memory import peak, restart_peak
from .speed import picture

ROOT = Path(__file__).parents[1]


def measure(
    base: str | Path,
    weights: str | Path | None,
    sides: list[int],
    dtype: str,
    device: str,
    attention: str = "auto",
    grid: str = "official",
) -> list[dict[str, Any]]:
    """A row for each side, in pixels of the restored square picture."""
    model = {"base": str(base), "weights": weights and str(weights), "dtype": dtype, "device": device}
    rows = []
    for side in sides:
        case = {**model, "side": side, "attention": attention, "grid": grid}
        command = [sys.executable, "-m", "benchmarks.megapixels", "--worker", json.dumps(case)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
        options = {"dtype": dtype, "side": side, "attention": attention, "grid": grid}
        rows.append({**options, **json.loads(done.stdout.splitlines()[-1])})
    return rows


@torch.inference_mode()
def work(case: dict[str, Any]) -> dict[str, Any]:
    """Restore one picture; seconds of the stages, peak bytes of the whole process."""
    generator = OneStepGenerator.load(
        case["base"], case["weights"], dtype=case["dtype"], device=case["device"], keep_base=False
    )
    embeds = generator.encode_prompt(["a harbour"])
    lq, seconds, tiling = picture(case["side"]), {}, VAETiling(attention=case["attention"])
    restart_peak(case["device"])
    for image in (picture(256), lq):  # the first one sets the libraries up
        start = time.perf_counter()
        latents = generator.encode(image, tiling=tiling)
        seconds["encode"], start = time.perf_counter() - start, time.perf_counter()
        latents = generator.denoise(latents, embeds, tiling=UNetTiling(96, 32, case["grid"]))
        seconds["denoise"], start = time.perf_counter() - start, time.perf_counter()
        generator.decode(latents, tiling=tiling).cpu()
        seconds["decode"] = time.perf_counter() - start
    return {"megapixels": case["side"] ** 2 / 1e6, "seconds": seconds, "peak_bytes": peak(case["device"])}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--attention", choices=VAE_ATTENTIONS, default="auto")
    parser.add_argument("--grid", default="official")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(json.loads(args.worker))), flush=True)  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as scratch:
        base, weights = ("tiny", None) if args.model == "tiny" else write_full_size(Path(scratch))
        for row in measure(base, weights, args.sides, args.dtype, args.device, args.attention, args.grid):
            print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
