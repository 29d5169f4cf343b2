"""The tagger against a plain one (plain_tagger.py): seconds a picture, seconds to load, peak memory.

    python -m benchmarks.tagger [--ram FILE] [--pictures 9] [--markdown FILE]

Both tag the same picture with the same RAM weights on the CPU: for the time in one process, picture by picture in
turns, so that what else the machine does hits both alike; for memory each in a process of its own. Weights are random
ones of RAM's size, in a file of its layout (0.85 GB), unless --ram gives the real file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .memory import peak


def write_random(path: Path) -> None:
    """A file like ram_swin_large_14m.pth, without its optimiser and the parts that tagging never reads."""
    from osediff_core.dape import TaggerConfig
    from osediff_core.dape.official import official_shapes

    torch.manual_seed(0)
    tensors = {}
    for name, shape in official_shapes(TaggerConfig()).items():
        scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.02
        tensors[name] = torch.randn(shape) * scale + (len(shape) == 1 and name.endswith("weight"))
    torch.save({"model": tensors}, path)


def make_plain(path: Path, dtype: str) -> Callable[[Tensor], Tensor]:
    """picture (1, 3, H, W) in [-1, 1] -> logits."""
    from osediff_core.dape.preprocess import preprocess
    from osediff_core.runtime.device import DTYPES

    from .plain_tagger import PlainTagger

    tagger = PlainTagger(path, DTYPES[dtype])
    return lambda image: tagger.logits(preprocess(image, 384).to(DTYPES[dtype]))


def make_ours(path: Path, dtype: str) -> Callable[[Tensor], Tensor]:
    """picture (1, 3, H, W) in [-1, 1] -> logits."""
    from osediff_core.dape import Tagger

    tagger = Tagger.load(path, dape=False, dtype=dtype, device="cpu")
    return lambda image: tagger.scores(image).logit()


def compare(path: Path, dtype: str, pictures: int) -> dict[str, float]:
    """Median seconds a picture of both after one to warm up, and how far their logits are apart."""
    taggers = {"plain": make_plain(path, dtype), "ours": make_ours(path, dtype)}
    image, seconds, logits = _picture(), {"plain": [], "ours": []}, {}
    for _ in range(pictures + 1):
        for which, tag in taggers.items():
            start = time.perf_counter()
            logits[which] = tag(image)
            seconds[which].append(time.perf_counter() - start)
    found = {which: statistics.median(times[1:]) for which, times in seconds.items()}
    return {**found, "apart": (logits["plain"] - logits["ours"]).abs().max().item()}


def measure(which: str, path: Path, dtype: str) -> dict[str, float]:
    """Seconds to load and peak resident bytes of a process that loads the file and tags one picture."""
    start = time.perf_counter()
    tag = (make_plain if which == "plain" else make_ours)(path, dtype)
    load = time.perf_counter() - start
    tag(_picture())
    return {"load": load, "peak": peak()}


def _picture() -> Tensor:
    return torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1)) * 2 - 1


def rows(dtype: str, times: dict[str, float], runs: dict[str, dict[str, float]]) -> list[str]:
    """Markdown; ratios are ours to the plain one's."""
    plain, ours, one = (runs[which] for which in ("plain", "ours", "one file"))
    lines = [
        f"| {dtype}: time a picture | {times['plain']:.2f} s | {times['ours']:.2f} s | {_ratio(times)} | |"
    ]
    for label, name, unit, factor in (("peak memory", "peak", "GB", 1e9), ("time to load", "load", "s", 1)):
        values = [run[name] / factor for run in (plain, ours, one)]
        cells = " | ".join(f"{value:.2f} {unit}" for value in values[:2])
        ratio = f"{values[1] / values[0]:.2f}"
        lines.append(f"| {dtype}: {label} | {cells} | {ratio} | {values[2]:.2f} {unit} |")
    return lines


def _ratio(times: dict[str, float]) -> str:
    return f"{times['ours'] / times['plain']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ram", type=Path, help="ram_swin_large_14m.pth (default: random weights of its size)"
    )
    parser.add_argument("--pictures", type=int, default=9, help="timed pictures")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        which, dtype = args.one
        found = (
            compare(args.ram, dtype, args.pictures) if which == "both" else measure(which, args.ram, dtype)
        )
        print(json.dumps(found))  # noqa: T201
        return
    lines = ["| | plain | ours | ratio | ours, from one small file |", "|---|---|---|---|---|"]
    apart = {}
    with tempfile.TemporaryDirectory() as scratch:
        ram = args.ram or Path(scratch) / "ram.pth"
        if args.ram is None:
            write_random(ram)
        for dtype in ("fp32", "bf16"):
            small = Path(scratch) / f"{dtype}.safetensors"
            _python("osediff_core", "convert", str(ram), str(small), "--dtype", dtype)
            times = _run("both", dtype, ram, args.pictures)
            apart[dtype] = times["apart"]
            files = {"plain": ram, "ours": ram, "one file": small}
            lines += rows(dtype, times, {which: _run(which, dtype, file) for which, file in files.items()})
    weights = "Random weights" if args.ram is None else args.ram.name
    settings = (
        f"{weights}, one picture at a time, {torch.get_num_threads()} CPU threads, torch {torch.__version__}; median "
        f"of {args.pictures} pictures. The logits of both are at most {apart['fp32']:.0e} apart in fp32."
    )
    text = "\n".join([*lines, "", settings])
    print(text)  # noqa: T201
    if args.markdown:
        args.markdown.write_text(text + "\n")


def _run(which: str, dtype: str, path: Path, pictures: int = 1) -> dict[str, float]:
    options = ("--one", which, dtype, "--ram", str(path), "--pictures", str(pictures))
    return json.loads(_python("benchmarks.tagger", *options).splitlines()[-1])


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
