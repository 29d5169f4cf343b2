"""What the fidelity slider does: PSNR against perceptual distance from more detail to nothing but the input.

    python -m benchmarks.fidelity PICTURES [--preset light] [--size 192] [--strengths] [--plot FILE.png] [--json FILE]

PICTURES is a data set with LR/ and HR/ (or lq/ and gt/, test_LR/ and test_HR/), or a folder of good pictures, which are
degraded here. Each is a crop of its centre. --strengths measures the three strengths that the slider sets against each
other instead, which is how its path was chosen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from osediff_core import OneStepGenerator, Picture, RestoreOptions, restore_picture
from osediff_core.degrade import degrade
from osediff_core.errors import OptionError, OSEDiffError
from osediff_core.evaluate.bootstrap import Mean, mean_of
from osediff_core.evaluate.evaluation import enlarged
from osediff_core.evaluate.folders import pair_folders, pair_up, pictures_by_name
from osediff_core.evaluate.measure import as_tensor
from osediff_core.evaluate.perceptual import FeatureDistance
from osediff_core.evaluate.psnr_ssim import psnr_y
from osediff_core.fidelity import Strengths, strengths
from osediff_core.images import read_image

log = logging.getLogger("benchmarks.fidelity")

SLIDER = (-1.0, -0.5, 0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
GRID = [
    Strengths(*point)
    for point in itertools.product((0.5, 0.75, 1.0, 1.25), (0.0, 0.5, 1.0), (0.5, 0.75, 1.0))
]
SEED = 7  # of the degradation of each picture
INK, FAINT, GRIDLINE, OURS = "#1f2430", "#8a93a3", "#e8ebf0", "#2f6fde"


@dataclass(frozen=True)
class Point:
    """gain: PSNR-Y above bicubic's in dB. change: D2 against bicubic's mean in percent."""

    label: str
    psnr: float
    d2: float
    gain: Mean
    change: Mean


@dataclass(frozen=True)
class Pair:
    """lq: the small picture. hq: uint8 (H, W, 3)."""

    lq: Picture
    hq: np.ndarray


def load_pairs(folder: Path, preset: str, scale: int, size: int) -> list[Pair]:
    """The centres of all pictures, `size` px of the HQ, rounded down to a multiple of `scale`.

    Raises OSEDiffError where there are none, or a pair is of another scale.
    """
    size = size // scale * scale
    found = pair_folders(folder)
    pairs = []
    if found is not None:
        lq_folder, hq_folder = found
        for pair in pair_up(lq_folder, hq_folder).pairs:
            lq, hq = read_image(pair.result).rgb8(), read_image(pair.truth).rgb8()
            if tuple(scale * side for side in lq.shape[:2]) != hq.shape[:2]:
                raise OptionError(
                    f"{pair.truth} is not {scale} times as large as {pair.result}; mend --scale."
                )
            hq = _centre(hq, size)
            pairs.append(Pair(_picture(_centre(lq, size // scale)), hq))
        return pairs
    for index, path in enumerate(pictures_by_name(folder).values()):
        hq = _centre(read_image(path).rgb8(), size)
        lq, _ = degrade(as_tensor(hq) / 2 + 0.5, preset, scale, SEED, first=index)
        pairs.append(Pair(Picture(lq[0].permute(1, 2, 0).contiguous().numpy()), hq))
    return pairs


def _centre(pixels: np.ndarray, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise OptionError(
            f"A picture of {width}x{height} px has no centre of {size} px; give a smaller --size."
        )
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def _picture(pixels: np.ndarray) -> Picture:
    return Picture(pixels.astype(np.float32) / 255)


class Measuring:
    """PSNR-Y and D2 of results, and how far they are from bicubic's."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs, self.distance = pairs, FeatureDistance(2)
        self.bicubic = self._figures([enlarged(p.lq, (p.hq.shape[1], p.hq.shape[0])) for p in pairs])

    @torch.inference_mode()
    def _figures(self, results: list[np.ndarray]) -> list[tuple[float, float]]:
        both = [
            (as_tensor(image), as_tensor(pair.hq)) for image, pair in zip(results, self.pairs, strict=True)
        ]
        return [(float(psnr_y(*pair)), float(self.distance(*pair))) for pair in both]

    def point(self, label: str, generator: OneStepGenerator, chosen: Strengths) -> Point:
        """All pictures with these strengths."""
        generator.set_strength(**chosen._asdict())
        options = RestoreOptions(scale=self.pairs[0].hq.shape[0] / self.pairs[0].lq.rgb.shape[0])
        found = self._figures([restore_picture(generator, pair.lq, options).rgb8() for pair in self.pairs])
        reference = float(np.mean([d2 for _, d2 in self.bicubic]))
        gains = [ours - theirs for (ours, _), (theirs, _) in zip(found, self.bicubic, strict=True)]
        changes = [
            100 * (ours - theirs) / reference
            for (_, ours), (_, theirs) in zip(found, self.bicubic, strict=True)
        ]
        psnr, d2 = (float(np.mean(values)) for values in zip(*found, strict=True))
        point = Point(label, psnr, d2, mean_of(gains), mean_of(changes))
        log.info("%s", row(point))
        return point


def row(point: Point) -> str:
    """A Markdown row: label, PSNR and D2 against bicubic with 95 % intervals over pictures."""
    gain, change = _shown(point.gain, 2), _shown(point.change, 1)
    return f"| {point.label} | {point.psnr:.2f} | {gain} | {point.d2:.4f} | {change} % |"


def _shown(mean: Mean, digits: int) -> str:
    """A single picture has no interval."""
    interval = "" if mean.low is None else f" [{mean.low:+.{digits}f}, {mean.high:+.{digits}f}]"
    return f"{mean.value:+.{digits}f}{interval}"


def plot(points: list[Point], bicubic: tuple[float, float], title: str, path: Path) -> None:
    """The curve: to the right nearer to the truth in features, upwards in pixels. Raises ImportError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y = [p.d2 for p in points], [p.psnr for p in points]
    axes.plot(x, y, color=OURS, linewidth=1.6, marker="o", markersize=5)
    axes.plot(bicubic[1], bicubic[0], color=FAINT, marker="s", markersize=6, linestyle="none")
    texts = [(p.label, p.d2, p.psnr, INK) for p in points] + [("bicubic", bicubic[1], bicubic[0], FAINT)]
    for text, left, top, colour in texts:
        axes.annotate(text, (left, top), (6, 6), textcoords="offset points", fontsize=9, color=colour)
    axes.invert_xaxis()
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel("D2, perceptual distance (better to the right)", color=FAINT)
    axes.set_ylabel("PSNR-Y in dB", color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRIDLINE)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(color=GRIDLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(0.12)
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, help="good pictures, or a data set of pairs")
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument(
        "--preset", default="light", help="of osediff degrade, for good pictures (default: light)"
    )
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", type=int, default=192, help="side of the crops in px (default: 192)")
    parser.add_argument("--strengths", action="store_true", help="the three strengths against each other")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.plot and args.strengths:
        parser.error("--plot draws the slider's curve, and --strengths has none; leave out one of the two")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        measure(args)
    except (OSEDiffError, OSError, ImportError) as error:
        log.error("%s", error)
        return 1
    return 0


def measure(args: argparse.Namespace) -> None:
    """All points, as a table and in files. Raises OSEDiffError, OSError, and ImportError without matplotlib."""
    pairs = load_pairs(args.pictures, args.preset, args.scale, args.size)
    measuring = Measuring(pairs)
    generator = OneStepGenerator.load(args.base, args.weights, dtype=args.dtype, device=args.device)
    points_of = [(f"{f:+g}" if f else "0", strengths(f)) for f in SLIDER]
    if args.strengths:
        points_of = [(f"{p.unet:g}, {p.vae:g}, {p.step:g}", p) for p in GRID]
    label = "UNet, VAE, step" if args.strengths else "fidelity"
    log.info("| %s | PSNR-Y | against bicubic, dB | D2 | against bicubic |\n|---|---|---|---|---|", label)
    points = [measuring.point(name, generator, chosen) for name, chosen in points_of]
    bicubic = tuple(float(np.mean(values)) for values in zip(*measuring.bicubic, strict=True))
    log.info("bicubic: %.2f dB, D2 %.4f; %d crops of %d px", *bicubic, len(pairs), args.size)
    if args.json:
        figures = {"bicubic": bicubic, "points": [asdict(point) for point in points]}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.plot:
        plot(
            points, bicubic, f"{args.pictures.name}: fidelity from {SLIDER[0]:g} to {SLIDER[-1]:g}", args.plot
        )


if __name__ == "__main__":
    sys.exit(main())
