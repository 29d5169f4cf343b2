"""Tiles of the VAE (ours, diffusers', ComfyUI's) against the whole image, and tiles of the UNet: error, time, memory.

    python -m benchmarks.tiling [--quick] [--only vae|unet]

Every VAE case runs in a process of its own. Needs Linux (for peak memory). ComfyUI is measured where make test has put
it or OSEDIFF_COMFYUI says. Prints tables; `python -m benchmarks` has them in its report.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from .unet_tiles import measure

ROOT = Path(__file__).parents[1]
GB = 10**9
# An untiled decode of Stable Diffusion's VAE holds about this much per pixel in fp32, as measured.
_UNTILED = {
    ("sd21", "decode"): 4200,
    ("sd21", "encode"): 2700,
    ("tiny", "decode"): 1000,
    ("tiny", "encode"): 600,
}
BOTH = ("encode", "decode")
# parts of the report -> (VAE, side in pixels, directions)
CASES = {
    "vae_tiny": ("tiny", 1024, BOTH),
    "vae_1024": ("sd21", 1024, BOTH),
    "vae_2048": ("sd21", 2048, ("decode",)),
}
QUICK = dict.fromkeys(CASES, ("tiny", 512, BOTH))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small case of each")
    parser.add_argument("--only", choices=("vae", "unet"))
    args = parser.parse_args()
    if args.only != "unet":
        for case in [QUICK["vae_tiny"]] if args.quick else CASES.values():
            print(vae_tables(measure_both(*case)))  # noqa: T201
    if args.only != "vae":
        print(unet_table(measure(512, 1) if args.quick else measure(512, 4)))  # noqa: T201


def measure_both(vae: str, size: int, directions: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a case, one direction after the other."""
    return [row for direction in directions for row in measure_vae(vae, direction, size)]


def measure_vae(vae: str, direction: str, size: int) -> list[dict[str, Any]]:
    """A row for each method. Errors are against the untiled result, or where memory does not allow it, against ours."""
    comfyui = _comfyui()
    base = {"vae": vae, "direction": direction, "size": size}
    fits = _UNTILED[vae, direction] * size**2 * 1.15 < psutil.virtual_memory().available
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        reference = None
        for name, options in _methods(vae, size, comfyui, fits):
            if name == "ours, the memory of diffusers'":
                options = {"method": "ours", "memory": _peak(rows, "diffusers")}
            save = f"{folder}/{len(rows)}.npy"
            row = {"name": name, **base, **_run({**base, **options, "save": save})}
            found = np.load(save)
            reference = found if reference is None else reference
            channels = min(found.shape[1], reference.shape[1])  # ComfyUI's encoder gives the mean alone
            pair = [array[:, :channels] for array in (found, reference)]
            if direction == "decode":
                pair = [array.clip(-1, 1) for array in pair]
            error = np.abs(pair[0] - pair[1])
            row["max_error"], row["psnr"] = float(error.max()), _psnr(error, reference)
            os.unlink(save)
            rows.append(row)
            sys.stderr.write(f"{json.dumps(row)}\n")
    return rows


def _methods(vae: str, size: int, comfyui: Path | None, fits: bool) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = [("untiled", {"method": "untiled"})] if fits else []
    found.append(("ours, 4 tiles", {"method": "ours", "tile": size // 2}))
    found.append(("diffusers", {"method": "diffusers"}))
    found.append(("ours, the memory of diffusers'", {}))
    found.append(("ours, pooled attention", {"method": "ours", "tile": size // 2, "attention": "pooled"}))
    if comfyui is not None and vae == "sd21":
        found.append(("ComfyUI", {"method": "comfyui", "comfyui": str(comfyui)}))
    return found


def _run(case: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.vae_methods", json.dumps(case)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def _peak(rows: list[dict[str, Any]], name: str) -> int:
    """A budget such that what is measured stays at or below the peak of another method."""
    return int(0.8 * next(row["peak_bytes"] for row in rows if row["name"] == name))


def _psnr(error: np.ndarray, reference: np.ndarray) -> float | None:
    """In dB, of the range -1 to 1, for moments of the range of the reference; None where nothing differs."""
    mean = float(np.square(error, dtype=np.float64).mean())
    peak = max(2.0, float(reference.max() - reference.min()))
    return None if mean == 0 else 10 * math.log10(peak**2 / mean)


def _comfyui() -> Path | None:
    named = os.environ.get("OSEDIFF_COMFYUI")
    folder = Path(named) if named else Path.home() / ".cache/osediff/comfyui-0.30.0"
    return folder if (folder / "comfy" / "sd.py").is_file() else None


def vae_tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each case."""
    lines = []
    for case in dict.fromkeys((r["vae"], r["direction"], r["size"]) for r in rows):
        own = [r for r in rows if (r["vae"], r["direction"], r["size"]) == case]
        vae, direction, size = case
        lines += [
            f"### {vae}, {direction}, {size} x {size}",
            "",
            f"| | max error | PSNR | peak memory | CPU time | of {own[0]['name']} |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in own:
            psnr = "" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
            error = "reference" if row is own[0] else f"{row['max_error']:.1e}"
            lines.append(
                f"| {row['name']} | {error} | {psnr} | {row['peak_bytes'] / GB:.2f} GB | {row['cpu_s']:.0f} s | "
                f"{row['cpu_s'] / own[0]['cpu_s']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def unet_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| grid | tile | overlap | work | PSNR | seam | PSNR, shared | seam, shared |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for own, shared in zip(rows[::2], rows[1::2], strict=True):
        lines.append(
            f"| {own['grid']} | {own['tile']} | {own['overlap']} | {own['work']:.2f} | {own['psnr']:.2f} dB | "
            f"{own['seam']:.3f} | {shared['psnr']:.2f} dB | {shared['seam']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
