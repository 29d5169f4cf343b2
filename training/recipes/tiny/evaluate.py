"""Figures of a base and its OSEDiff weights against bicubic and against the VAE alone.

    python -m training.recipes.tiny.evaluate [--base tiny] [--real-pairs DIR] [--kodak DIR] [--results DIR]

Methods: `bicubic` (Pillow, x4); `vae only` (bicubic through encoder and decoder of the untuned base, colour fix
on: the control that shows what the round trip alone does); `osediff`; `results` of another system, if given.
Figures: PSNR on luma in dB and D2 as defined in `osediff_core/evaluate/perceptual.py`; for the differences to bicubic,
a 95 % bootstrap interval over pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from osediff_core import color
from osediff_core.evaluate.bootstrap import bootstrap_interval
from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr_y
from osediff_core.generator import OneStepGenerator
from osediff_core.images import Cell, Picture, centre_crop, contact_sheet
from osediff_core.pipeline import RestoreOptions, restore_picture

from ...data.pictures import to_tensor
from .degrade import enlarge
from .validation import Pair, degraded_kodak, read_rgb, real_pairs

log = logging.getLogger(__name__)

Method = Callable[[Pair], np.ndarray]  # -> uint8 (4 h, 4 w, 3), from the pair's LQ


REAL = "real pairs x4"


@dataclass
class Scores:
    """Per picture: PSNR-Y in dB and D2."""

    psnr: list[float] = field(default_factory=list)
    d2: list[float] = field(default_factory=list)


def methods(generator: OneStepGenerator, color_fix: str) -> dict[str, Method]:
    """The three methods compared; `generator` is left at full strength."""
    options = RestoreOptions(scale=4, color_fix=color_fix)

    def bicubic(pair: Pair) -> np.ndarray:
        return enlarge(pair.lq)

    def osediff(pair: Pair) -> np.ndarray:
        return restore_picture(generator, Picture(pair.lq.astype(np.float32) / 255), options).samples()

    @torch.inference_mode()
    def vae_only(pair: Pair) -> np.ndarray:
        generator.set_strength(vae=0.0)
        image = to_tensor(enlarge(pair.lq)[None])
        decoded = generator.decode(generator.encode(image))
        generator.set_strength(vae=1.0)
        fixed = color.apply(color_fix, (decoded + 1) / 2, (image + 1) / 2).clamp(0, 1)
        return (fixed[0] * 255).round().byte().permute(1, 2, 0).numpy()

    return {"bicubic": bicubic, "vae only": vae_only, "osediff": osediff}


def results(folder: Path) -> Method:
    """Another system's results, read from `folder`/NAME.png."""
    return lambda pair: read_rgb(folder / f"{pair.name}.png")


def score(pairs: list[Pair], tried: dict[str, Method], distance: FeatureDistance) -> dict[str, Scores]:
    """Scores of every method on every pair."""
    found = {name: Scores() for name in tried}
    for pair in pairs:
        hq = to_tensor(pair.hq[None])
        for name, method in tried.items():
            image = to_tensor(method(pair)[None])
            with torch.inference_mode():
                found[name].psnr.append(float(psnr_y(image, hq)))
                found[name].d2.append(float(distance(image, hq)))
    return found


def summarise(found: dict[str, Scores]) -> dict[str, dict[str, float | list[float]]]:
    """Means, and differences to bicubic with intervals: PSNR in dB, D2 in percent of bicubic's mean."""
    reference = found["bicubic"]
    base_d2 = float(np.mean(reference.d2))
    table: dict[str, dict[str, float | list[float]]] = {}
    for name, scores in found.items():
        gain = torch.tensor(scores.psnr) - torch.tensor(reference.psnr)
        change = 100 * (torch.tensor(scores.d2) - torch.tensor(reference.d2)) / base_d2
        table[name] = {
            "pictures": len(scores.psnr),
            "psnr_y": float(np.mean(scores.psnr)),
            "psnr_gain": float(gain.mean()),
            "psnr_gain_95": list(bootstrap_interval(gain)),
            "d2": float(np.mean(scores.d2)),
            "d2_percent": float(change.mean()),
            "d2_percent_95": list(bootstrap_interval(change)),
            "d2_better_share": float((change < 0).float().mean()),
        }
    return table


def markdown(dataset: str, table: dict[str, dict]) -> str:
    """The table of one data set."""
    lines = [
        f"| {dataset} ({table['bicubic']['pictures']}) | PSNR-Y | against bicubic | D2 | against bicubic | better in |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        low, high = row["psnr_gain_95"]
        d_low, d_high = row["d2_percent_95"]
        lines.append(
            f"| {name} | {row['psnr_y']:.2f} dB | {row['psnr_gain']:+.2f} [{low:+.2f}, {high:+.2f}] dB "
            f"| {row['d2']:.4f} | {row['d2_percent']:+.1f} [{d_low:+.1f}, {d_high:+.1f}] % "
            f"| {100 * row['d2_better_share']:.0f} % |"
        )
    return "\n".join(lines)


def sheet(pairs: list[Pair], tried: dict[str, Method], size: int = 224) -> Image.Image:
    """Centre crops side by side: LQ (nearest) | bicubic | osediff | HQ, one row a pair."""
    names = ("LQ", "bicubic", "osediff", "HQ")
    rows = []
    for pair in pairs:
        nearest = Image.fromarray(pair.lq).resize(pair.hq.shape[1::-1], Image.Resampling.NEAREST)
        others = (*(tried[name](pair) for name in names[1:3]), pair.hq)
        pictures = (nearest, *map(Image.fromarray, others))
        rows.append([Cell(centre_crop(picture, size)) for picture in pictures])
    return contact_sheet(rows, names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--real-pairs", type=Path, help="folder with LR/ and HR/")
    parser.add_argument("--kodak", type=Path, help="folder of Kodak pictures, degraded here with fixed seeds")
    parser.add_argument("--color-fix", default="adain", choices=list(color.METHODS))
    parser.add_argument("--results", type=Path, help="results of another system for the real pairs, NAME.png")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--sheet", type=Path, help="also write crops of five degraded Kodak pictures side by side"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generator = OneStepGenerator.load(args.base, args.weights, dtype="fp32", device="cpu")
    tried, distance, tables = methods(generator, args.color_fix), FeatureDistance(2), {}
    datasets = {}
    if args.real_pairs:
        datasets[REAL] = real_pairs(args.real_pairs)
    if args.kodak:
        datasets["degraded Kodak x4"] = degraded_kodak(args.kodak)
    if not datasets:
        parser.error("nothing to evaluate: give --real-pairs or --kodak")
    for name, pairs in datasets.items():
        others = {"results": results(args.results)} if args.results and name == REAL else {}
        tables[name] = summarise(score(pairs, tried | others, distance))
        log.info("%s\n", markdown(name, tables[name]))
    if args.json:
        args.json.write_text(json.dumps(tables, indent=2) + "\n")
    if args.sheet and args.kodak:
        sheet(datasets["degraded Kodak x4"][3:23:4], tried).save(args.sheet, quality=92)


if __name__ == "__main__":
    main()
