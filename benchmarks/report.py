"""The measured numbers as a page and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import accelerator, loading, speed, tiling

_INTRO = """# Speed, memory, exactness

`make bench` (`python -m benchmarks`) makes this page, its numbers ([benchmarks.json](benchmarks.json)) and its plot.
Full size means Stable Diffusion 2.1's, with random weights (benchmarks/full_size.py); `tiny` is the embedded model.
Seconds depend on the machine. Memory is the most that the process held at once, mapped files included (on a GPU, the
most that PyTorch's allocator gave out); where it says "above", less what was held just before."""
_SPEED = """`plain diffusers` is fp32 with the LoRA unmerged, as the official code runs it, with its tiles of the UNet:
96 latents, overlap 32, for areas above 96 x 96. `ours` has the LoRA merged and the same tiles; `balanced tiles` are
spread evenly, `whole` is without tiles, which spares the UNet more than half of its work at 1024 pixels. `denoise` has
the prompt in it: plain diffusers encodes it for every picture, as the official code does, ours once for all pictures.
All take turns, a picture each, until the 95 % intervals of the ratios, which are taken within a turn, are at most 5 %
wide, or eight turns (four at 1024 pixels) are over."""
_LOADING = """From the start of the process to the first picture, of 256 x 256 pixels, in fp32 of the peer and in the
dtype that the name says of ours. The peer maps its files and reads them while it computes the first picture, ours read
them while they load, so only the sum says who is ready first. `merged before`: the folder that `osediff convert
--merge` or `--cache` leaves. Cold files were thrown out of the system's cache before each start."""
_ACCELERATOR = """The paper's protocol: 512 x 512 pixels in fp16, LoRA merged, tagger and prompt of every picture
included, files left out; the authors' figure is 0.11 s on an A100. The other rows leave the tagger out. `first` is the
first picture, with what is compiled for it."""
_MEGAPIXELS = """Restored pixels against seconds a megapixel and peak memory of the whole process. `auto` and `pooled`
are the VAE's attention ([tiling.md](tiling.md)): exact attention grows with the square of the area, whatever the
tiles."""
_VAE = """fp32. Errors are the largest difference of a value of the image (range -1 to 1) or of the posterior's moments
from the first row, which is the whole image where memory allowed it. Each way was measured once, one after the other,
in a process of its own. Memory is the peak above the weights; CPU time is of all threads together."""
_UNET = """`tiny` on photographs, 512 x 512 pixels, against the untiled step. Work: latents computed per latent. Seam:
how much steeper the error is across the borders of tiles than elsewhere (1: not at all). Shared: group norms with the
statistics of all tiles together."""


def markdown(report: dict[str, Any]) -> str:
    """The page; parts that were not measured are left out."""
    lines = [_INTRO, "", *_machines(report["machines"])]
    if "peak" in report:
        lines += ["", "## What the machine can do", "", *_peaks(report["peak"])]
    if "accelerator" in report:
        lines += ["", "## On an accelerator", "", _ACCELERATOR, "", accelerator.table(report["accelerator"])]
    if "loading" in report:
        lines += ["", "## Until the first picture", "", _LOADING, "", loading.table(report["loading"])]
    sizes = [name for name in ("speed512", "speed1024") if name in report]
    if sizes:
        lines += ["", "## Full size against plain diffusers", "", _SPEED]
    for name in sizes:
        part = report[name]
        lines += ["", f"### {part['pixels']} x {part['pixels']} pixels", "", speed.table(part["rows"])]
        same = "peak" in report and report["machines"]["peak"] == report["machines"][name]
        if part["operations"] and same:
            lines += ["", *_shares(part, report["peak"])]
    rows = [*report.get("megapixels", []), *report.get("megapixels_full", [])]
    if rows:
        lines += [
            "",
            "## A megapixel",
            "",
            _MEGAPIXELS,
            "",
            "![plot](benchmarks.png)",
            "",
            *_megapixels(rows),
        ]
    vae = [row for name in tiling.CASES for row in report.get(name, [])]
    if vae:
        lines += ["", "## Tiles of the VAE", "", _VAE, "", tiling.vae_tables(vae).rstrip()]
    if "unet" in report:
        lines += ["", "## Tiles of the UNet", "", _UNET, "", tiling.unet_table(report["unet"])]
    return "\n".join(lines) + "\n"


def _machines(machines: dict[str, dict[str, Any]]) -> list[str]:
    """What the parts were measured on, each machine once."""
    parts: dict[str, list[str]] = {}
    busy: dict[str, float] = {}
    for part, machine in machines.items():
        described = (
            f"{machine['processor']} ({machine['capability']}), {machine['cores']} cores, "
            f"{machine['threads']} threads, torch {machine['torch']}"
        )
        busy[described] = max(busy.get(described, 0.0), machine.get("busy", 0.0))
        parts.setdefault(described, []).append(part)
    if len(parts) == 1:
        return [f"Measured on {next(iter(parts))}{_disturbed(busy[next(iter(parts))])}."]
    lines = ["The parts come from different machines; seconds compare only within one.", ""]
    return lines + [
        f"- {', '.join(f'`{name}`' for name in names)}: {found}{_disturbed(busy[found])}"
        for found, names in parts.items()
    ]


def _disturbed(share: float) -> str:
    """What others took of the processors before a part began, where that is worth a word."""
    return f"; other programs took up to {100 * share:.0f} % of the processors" if share >= 0.02 else ""


def _peaks(found: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| GFLOP/s | matrix product | 3x3 convolution |", "| --- | ---: | ---: |"]
    return lines + [f"| {name} | {row['matmul']:.0f} | {row['conv']:.0f} |" for name, row in found.items()]


def _shares(part: dict[str, Any], peak: dict[str, dict[str, float]]) -> list[str]:
    """Operations of each stage in its seconds, as a share of the better peak of the dtype."""
    operations = part["operations"]
    lines = [
        f"| share of the peak | {' | '.join(f'{s} ({operations[s] / 1e12:.1f} TFLOP)' for s in speed.STAGES)} |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, row in part["rows"].items():
        best = max(peak["bfloat16" if "bf16" in name else "float32"].values())
        shares = (operations[stage] / row[stage] / 1e9 / best for stage in speed.STAGES)
        lines.append(f"| {name} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |")
    return lines


def _megapixels(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | attention | pixels | encode | denoise | decode | **s a megapixel** | memory GB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        each = [row["seconds"][stage] / row["megapixels"] for stage in speed.STAGES]
        lines.append(
            f"| {row['model']}, {row['dtype']} | {row['attention']} | {row['side']} x {row['side']} | "
            f"{' | '.join(f'{value:.1f}' for value in each)} | **{sum(each):.1f}** | {row['peak_bytes'] / 1e9:.1f} |"
        )
    return lines


def plot(report: dict[str, Any], path: Path) -> None:
    """Seconds a megapixel and peak memory over megapixels, as PNG; nothing if they were not measured."""
    rows = [*report.get("megapixels", []), *report.get("megapixels_full", [])]
    if not rows:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for model, attention in dict.fromkeys((r["model"], r["attention"]) for r in rows):
        own = [r for r in rows if (r["model"], r["attention"]) == (model, attention)]
        sizes = [r["megapixels"] for r in own]
        seconds = [sum(r["seconds"].values()) / r["megapixels"] for r in own]
        label = f"{model} {own[0]['dtype']}, {attention} attention"
        left.plot(sizes, seconds, marker="o", label=label)
        right.plot(sizes, [r["peak_bytes"] / 1e9 for r in own], marker="o", label=label)
    for axes, title in ((left, "seconds a megapixel"), (right, "peak memory, GB")):
        axes.set(xscale="log", xlabel="megapixels", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.savefig(path, dpi=110)
