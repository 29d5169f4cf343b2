"""Seconds and memory on an accelerator: the official timing protocol, our stages, tiles, precisions and compilation.

    python -m benchmarks.accelerator [--device cuda] [--base FOLDER --weights FILE --ram FILE] [--quick]

The protocol is the paper's: a picture of 512 x 512 pixels in fp16, LoRA merged, the tagger included (RAM's network,
whose size DAPE's LoRA, merged in, does not change), files left out; on an A100 it took the authors 0.11 s. Weights are
random, of the true size, unless given: values make no difference to the time. A part that fails says why in its row,
and the others go on. Works on the CPU, too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from osediff_core import OneStepGenerator
from osediff_core.backends.speed import Speed
from osediff_core.errors import first_line
from osediff_core.tiles.unet import UNetTiling

from .full_size import NARROW, write_full_size
from .memory import peak, restart_peak
from .speed import PROMPT, STAGES, picture

RUNS, WARM_UP = 10, 3
TILES = UNetTiling(96, 32)

# what is loaded: name -> dtype, switches
VARIANTS: dict[str, tuple[str, Speed]] = {
    "fp16": ("fp16", Speed()),
    "fp16, channels-last": ("fp16", Speed(channels_last=True)),
    "bf16": ("bf16", Speed()),
    "fp32": ("fp32", Speed()),
    "fp16, compiled": ("fp16", Speed(compile=True)),
}


def measure(
    base: Path, weights: Path, ram: Path | None, device: str, sides: tuple[int, ...], runs: int = RUNS
) -> list[dict[str, Any]]:
    """A row for each variant at the first of the sides, and for the first variant at the others.

    ram: the tagger's file, which is timed with the first variant; None leaves it out.
    """
    rows = []
    for index, (name, (dtype, speed)) in enumerate(VARIANTS.items()):
        for side in sides if index == 0 else sides[:1]:
            tagger = ram if index == 0 and side == sides[0] else None
            row: dict[str, Any] = {"name": name, "side": side}
            try:
                row |= _row(base, weights, tagger, device, dtype, speed, side, runs)
            except Exception as error:  # one run on a borrowed machine must give what it can
                row["failed"] = f"{type(error).__name__}: {first_line(error)}"
            rows.append(row)
            _forget(device)
    return rows


@torch.inference_mode()
def _row(
    base: Path, weights: Path, ram: Path | None, device: str, dtype: str, speed: Speed, side: int, runs: int
) -> dict[str, Any]:
    start = time.perf_counter()
    generator = OneStepGenerator.load(base, weights, dtype=dtype, device=device, keep_base=False, speed=speed)
    wait(device)
    loaded = time.perf_counter() - start
    tag = _tagger(ram, device)
    lq = picture(side).to(device)
    embeds = generator.encode_prompt([PROMPT])
    stages: dict[str, Callable[[Any], Any]] = {
        "tags": lambda _: tag(lq),
        "prompt": lambda _: generator.text._embed([PROMPT]),  # anew, as for a picture with new tags
        "encode": lambda _: generator.encode(lq),
        "denoise": lambda latents: generator.denoise(latents, embeds, tiling=TILES),
        "decode": generator.decode,
    }
    turns = [_turn(stages, device)]
    restart_peak(device)  # what is set up once is no matter of a picture
    turns += [_turn(stages, device) for _ in range(WARM_UP - 1 + runs)]
    seconds = {name: median(turn[name] for turn in turns[WARM_UP:]) for name in turns[0]}
    first, tagged = turns[0]["whole"], ram is not None
    return {"load": loaded, "first": first, "seconds": seconds, "memory": peak(device), "tagged": tagged}


def _turn(stages: dict[str, Callable[[Any], Any]], device: str) -> dict[str, float]:
    """Seconds of each stage on what the one before gave, and of all."""
    found, value, begin = {}, None, time.perf_counter()
    for name, stage in stages.items():
        start = time.perf_counter()
        value = stage(value)
        wait(device)
        found[name] = time.perf_counter() - start
    return {**found, "whole": time.perf_counter() - begin}


def _tagger(ram: Path | None, device: str) -> Callable[[Tensor], Any]:
    if ram is None:
        return lambda image: None
    from osediff_core.dape import Tagger

    tagger = Tagger.load(ram, dape=False, dtype="fp16" if device != "cpu" else "fp32", device=device)
    return tagger.scores


def wait(device: str) -> None:
    """Until the accelerator has done what it was told."""
    kind = torch.device(device).type
    if kind != "cpu":
        getattr(torch, kind).synchronize()


def _forget(device: str) -> None:
    kind = torch.device(device).type
    torch._dynamo.reset()
    if kind != "cpu":
        getattr(torch, kind).empty_cache()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = ("tags", "prompt", *STAGES)
    heads = [
        "",
        "pixels",
        *(f"{name} ms" for name in names),
        "**picture s**",
        "first s",
        "load s",
        "memory GB",
    ]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        line = [row["name"], f"{row['side']} x {row['side']}"]
        if "failed" in row:
            lines.append([*line, f"failed: {row['failed']}", *[""] * (len(heads) - 3)])
            continue
        seconds = row["seconds"]
        line += [f"{1000 * seconds[name]:.0f}" for name in names]
        line += [f"**{seconds['whole']:.3f}**", f"{row['first']:.1f}", f"{row['load']:.1f}"]
        lines.append([*line, f"{row['memory'] / 1e9:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--ram", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="narrow networks, 64 pixels, to see that it works"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    sides = (64, 96) if args.quick else (512, 1024, 2048)
    with tempfile.TemporaryDirectory() as scratch:
        base, weights, ram = args.base, args.weights, args.ram
        if base is None:
            base, weights = write_full_size(Path(scratch), NARROW if args.quick else None)
        if ram is None and not args.quick:
            from .tagger import write_random

            ram = Path(scratch) / "ram.pth"
            write_random(ram)
        rows = measure(base, weights, ram, args.device, sides, 1 if args.quick else RUNS)
    print(table(rows))  # noqa: T201
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
