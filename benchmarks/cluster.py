"""Cost of the engine: CPU time a picture on Ray and in the plain loop, and the driver's memory for many references.

    python -m benchmarks.cluster [--pictures 200] [--seconds 0.1] [--references 100000]

Prints a table as docs/cluster.md has it. On machines that do other things, too, CPU time is the figure to look at.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

SIDE = 48  # pixels


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--side", type=int, default=SIDE, help="of the small pictures, in pixels")
    parser.add_argument("--large", type=int, default=160, help="of those that take about 100 ms, in pixels")
    parser.add_argument("--references", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, count in ((options.side, options.pictures), (options.large, options.pictures // 2)):
            if count:
                _compare(folder, side, count)
        if options.references:
            _queue(folder, options.references)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def cost_of(folder: Path, side: int, count: int) -> dict[str, float]:
    """CPU seconds a picture of each engine: each runs with few pictures and with many, and the difference counts.

    Raises SystemExit where the two do not make the same bytes.
    """
    few = count // 5
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        for name in ("many", "few") if number < few else ("many",):
            target = folder / f"{side}-{name}" / f"{number}.png"
            target.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(target)
    cost = {}
    for engine in ("plain", "ray"):
        spent = {}
        for name in ("few", "many"):
            output = folder / f"{side}-{name}-{engine}"
            spent[name] = _spent(folder / f"{side}-{name}", output, "--engine", engine)
        cost[engine] = (spent["many"] - spent["few"]) / (count - few)
    for path in sorted((folder / f"{side}-many-plain").iterdir()):
        if path.read_bytes() != (folder / f"{side}-many-ray" / path.name).read_bytes():
            raise SystemExit(f"{path.name} differs")
    return cost


def _compare(folder: Path, side: int, count: int) -> None:
    cost = cost_of(folder, side, count)
    plain, ray = (cost[name] * 1000 for name in ("plain", "ray"))
    _say(
        f"| {side} px, {count} pictures | {plain:.1f} ms | {ray:.1f} ms | {ray - plain:.1f} ms | {ray / plain:.3f} |"
    )


def _spent(pictures: Path, output: Path, *options: str) -> float:
    """CPU seconds of the command and all that it started, as far as a look at them ten times a second shows."""
    command = [
        sys.executable,
        "-m",
        "osediff_core",
        "upscale",
        str(pictures),
        "-o",
        str(output),
        "--scale",
        "2",
    ]
    process = subprocess.Popen(
        [*command, *options, "--json"], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    top, spent = psutil.Process(process.pid), {}
    while process.poll() is None:
        try:
            for one in (top, *top.children(recursive=True)):
                used = one.cpu_times()
                spent[one.pid, one.create_time()] = used.user + used.system
        except psutil.Error:
            pass  # it has ended meanwhile
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return sum(spent.values())


def _queue(folder: Path, count: int) -> None:
    """References to files that are not there fail at once, so that what is measured is the engine."""
    listed = folder / "list.txt"
    listed.write_text(
        "".join(f"/data/pictures/part-{n // 1000:05}/picture-{n:08}.jpg\n" for n in range(count))
    )
    command = [sys.executable, "-m", "osediff_core", "upscale", str(listed), "-o", str(folder / "queued")]
    process = subprocess.Popen(
        [*command, "--engine", "ray", "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    most, driver, start = 0, psutil.Process(process.pid), time.monotonic()
    while process.poll() is None:
        try:
            most = max(most, driver.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.2)
    took = time.monotonic() - start
    _say(f"| {count} references | {most / 1e9:.2f} GB in the driver | {took / count * 1000:.2f} ms each |")


if __name__ == "__main__":
    main()
