"""Figures of a base and its OSEDiff weights against bicubic, the VAE alone, and the teacher; and what it costs.

    python -m training.recipes.tiny.evaluate [--real-pairs DIR] [--kodak DIR] [--results DIR] [--teacher FILE]
    python -m training.recipes.tiny.evaluate --cost

Methods: `bicubic` (Pillow, x4); `vae only` (bicubic through encoder and decoder of the untuned base, colour fix
on: the control that shows what the round trip alone does); `tiny`; `results` of another system, and the `teacher` of
`training.recipes.tiny.teacher`, if given.
Figures: PSNR on luma in dB, D2 as defined in `osediff_core/evaluate/perceptual.py`, NIQE where pyiqa is installed, and
CPU-seconds a picture; for the differences to bicubic, a 95 % bootstrap interval over pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from osediff_core import color
from osediff_core.evaluate.bootstrap import bootstrap_interval
from osediff_core.evaluate.metric import ImageMeasure, MetricUnavailable
from osediff_core.evaluate.metrics import METRICS, load_measure
from osediff_core.generator import OneStepGenerator
from osediff_core.images import Cell, Picture, centre_crop, contact_sheet
from osediff_core.pipeline import RestoreOptions, restore_picture

from ...data.pictures import to_tensor
from .degrade import enlarge
from .teacher import load
from .validation import Pair, degraded_kodak, read_rgb, real_pairs

log = logging.getLogger(__name__)

Method = Callable[[Pair], np.ndarray]  # -> uint8 (4 h, 4 w, 3), from the pair's LQ

REAL, KODAK = "real pairs x4", "degraded Kodak x4"
OURS = "tiny"
TEACHER = "Real-ESRGAN"
SHEET_ROWS = 6  # of each data set
COST_SIDES = (512, 1024, 2048, 4096)  # px of the restored picture


@dataclass
class Scores:
    """Per picture, by name: psnr (luma, dB), d2, niqe, and seconds of CPU time."""

    psnr: list[float] = field(default_factory=list)
    d2: list[float] = field(default_factory=list)
    niqe: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def methods(generator: OneStepGenerator, color_fix: str) -> dict[str, Method]:
    """The three methods compared; `generator` is left at full strength."""
    options = RestoreOptions(scale=4, color_fix=color_fix)

    def bicubic(pair: Pair) -> np.ndarray:
        return enlarge(pair.lq)

    def tiny(pair: Pair) -> np.ndarray:
        return restore_picture(generator, Picture(pair.lq.astype(np.float32) / 255), options).samples()

    @torch.inference_mode()
    def vae_only(pair: Pair) -> np.ndarray:
        generator.set_strength(vae=0.0)
        image = to_tensor(enlarge(pair.lq)[None])
        decoded = generator.decode(generator.encode(image))
        generator.set_strength(vae=1.0)
        fixed = color.apply(color_fix, (decoded + 1) / 2, (image + 1) / 2).clamp(0, 1)
        return (fixed[0] * 255).round().byte().permute(1, 2, 0).numpy()

    return {"bicubic": bicubic, "vae only": vae_only, OURS: tiny}


def teacher(path: Path, dtype: torch.dtype) -> Method:
    """The teacher's own result."""
    network = load(path).to(dtype)

    @torch.inference_mode()
    def restored(pair: Pair) -> np.ndarray:
        image = network((to_tensor(pair.lq[None]) + 1).to(dtype) / 2).float().clamp(0, 1)
        return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()

    return restored


def results(folder: Path) -> Method:
    """Another system's results, read from `folder`/NAME.png."""
    return lambda pair: read_rgb(folder / f"{pair.name}.png")


def measures() -> dict[str, ImageMeasure]:
    """What is measured; NIQE only where its package is."""
    found = {}
    for name in ("psnr", "d2", "niqe"):
        try:
            found[name] = load_measure(METRICS[name], torch.device("cpu"))
        except MetricUnavailable as error:
            log.warning("%s", error)
    return found


def score(
    pairs: list[Pair], tried: dict[str, Method], measured: dict[str, ImageMeasure]
) -> dict[str, Scores]:
    """Scores of every method on every pair."""
    found = {name: Scores() for name in tried}
    for pair in pairs:
        hq = to_tensor(pair.hq[None])
        for name, method in tried.items():
            begun = time.process_time()
            image = to_tensor(method(pair)[None])
            found[name].seconds.append(time.process_time() - begun)
            for metric, measure in measured.items():
                getattr(found[name], metric).append(float(measure(image, hq)))
    return found


def summarise(found: dict[str, Scores]) -> dict[str, dict]:
    """Means, and differences to bicubic with intervals: PSNR in dB, D2 in percent of bicubic's mean."""
    reference = found["bicubic"]
    base_d2 = float(np.mean(reference.d2))
    table: dict[str, dict] = {}
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
            "niqe": float(np.mean(scores.niqe)) if scores.niqe else None,
            "seconds": float(np.mean(scores.seconds)),
        }
    return table


def markdown(dataset: str, table: dict[str, dict]) -> str:
    """The table of one data set."""
    count = table["bicubic"]["pictures"]
    lines = [
        f"| {dataset} ({count}) | PSNR-Y | against bicubic | D2 | against bicubic | better in | NIQE | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        low, high = row["psnr_gain_95"]
        d_low, d_high = row["d2_percent_95"]
        lines.append(
            f"| {name} | {row['psnr_y']:.2f} dB | {row['psnr_gain']:+.2f} [{low:+.2f}, {high:+.2f}] dB "
            f"| {row['d2']:.4f} | {row['d2_percent']:+.1f} [{d_low:+.1f}, {d_high:+.1f}] % "
            f"| {100 * row['d2_better_share']:.0f} % "
            f"| {'–' if row['niqe'] is None else format(row['niqe'], '.2f')} | {row['seconds']:.2f} |"
        )
    return "\n".join(lines)


def sheet(pairs: list[Pair], tried: dict[str, Method], size: int = 224) -> Image.Image:
    """Centre crops side by side: LQ (nearest), each method but "vae only", HQ; one row a pair."""
    names = [name for name in tried if name != "vae only"]
    rows = []
    for pair in pairs:
        nearest = Image.fromarray(pair.lq).resize(pair.hq.shape[1::-1], Image.Resampling.NEAREST)
        others = (*(tried[name](pair) for name in names), pair.hq)
        pictures = (nearest, *map(Image.fromarray, others))
        rows.append([Cell(centre_crop(picture, size)) for picture in pictures])
    return contact_sheet(rows, ("LQ", *names, "HQ"))


def cost(generator: OneStepGenerator, sides: tuple[int, ...] = COST_SIDES) -> dict[int, float]:
    """Side in px of the restored picture -> CPU-seconds a megapixel, with the default options."""
    found = {}
    for side in sides:
        noise = np.random.default_rng(0).random((side // 4, side // 4, 3), np.float32)
        begun = time.process_time()
        restore_picture(generator, Picture(noise), RestoreOptions(scale=4))
        found[side] = (time.process_time() - begun) / (side**2 / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--real-pairs", type=Path, help="folder with LR/ and HR/")
    parser.add_argument("--kodak", type=Path, help="folder of Kodak pictures, degraded here with fixed seeds")
    parser.add_argument("--color-fix", default="adain", choices=list(color.METHODS))
    parser.add_argument("--results", type=Path, help="results of another system for the real pairs, NAME.png")
    parser.add_argument("--teacher", type=Path, help="file that training.recipes.tiny.teacher wrote")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th picture")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--sheet", type=Path, help="also write crops of some pictures side by side")
    parser.add_argument("--cost", action="store_true", help="CPU-seconds a megapixel, from 0.25 to 16 MP")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    generator = OneStepGenerator.load(args.base, args.weights, dtype=args.dtype, device="cpu")
    datasets = {}
    if args.real_pairs:
        datasets[REAL] = real_pairs(args.real_pairs, args.every)
    if args.kodak:
        datasets[KODAK] = degraded_kodak(args.kodak, args.every)
    if not datasets and not args.cost:
        parser.error("nothing to evaluate: give --real-pairs, --kodak or --cost")
    tried = methods(generator, args.color_fix)
    if args.teacher:
        tried[TEACHER] = teacher(args.teacher, torch.float32 if args.dtype == "fp32" else torch.bfloat16)
    measured, tables = measures() if datasets else {}, {}
    for name, pairs in datasets.items():
        others = {"results": results(args.results)} if args.results and name == REAL else {}
        tables[name] = summarise(score(pairs, tried | others, measured))
        log.info("%s\n", markdown(name, tables[name]))
    if args.cost:
        for side, seconds in cost(generator).items():
            log.info("%d x %d px: %.2f CPU-seconds a megapixel", side, side, seconds)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=2) + "\n")
    if args.sheet:
        chosen = [
            pair for pairs in datasets.values() for pair in pairs[1 :: max(1, len(pairs) // SHEET_ROWS)]
        ]
        sheet(chosen, tried).save(args.sheet, quality=85)


if __name__ == "__main__":
    main()
