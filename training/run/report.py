"""One page that tells a run: figures, curves, pictures, settings.

    python -m training.run.report RUN_FOLDER

Makes RUN/report.html, which needs no other file, and RUN/curves.png from RUN/metrics.jsonl, run.json and sheets/; for a
run that is killed or still going, too.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import itertools
import logging
import math
import re
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from osediff_core.atomic import write_bytes_atomically
from osediff_core.cli.entry import run_main
from osediff_core.errors import OptionError, explained

from .curves import draw_curves, series
from .errors import TrainingError
from .logs import LogRow, read_facts, read_log

log = logging.getLogger("training.run.report")

_TEMPLATE = Path(__file__).with_name("report.html")
_SHEET = re.compile(r"step_(\d+)\.png")
_FIGURES = {  # name -> (title, format, whether a higher value is better)
    "distance": ("Perceptual distance", "{:.4f}", False),
    "distance_ratio": ("Distance, of the enlarged LQ's", "{:.1%}", False),
    "psnr_y": ("PSNR-Y", "{:.2f} dB", True),
    "ssim_y": ("SSIM-Y", "{:.4f}", True),
    "f1": ("Tags as the teacher's, F1", "{:.1%}", True),
}
_WIDEST = 1100  # px of an embedded sheet


def write_report(folder: Path) -> Path:
    """Write report.html and curves.png in the run's folder; returns the path of the page.

    Raises TrainingError where there is no log or the folder cannot be written, OptionError without matplotlib.
    """
    folder = Path(folder)
    rows = read_log(folder)
    try:
        curves = draw_curves(rows)
    except ImportError as error:
        raise OptionError("The report needs matplotlib; run pip install 'osediff[train]'.") from error
    facts = read_facts(folder)
    page = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(folder.resolve().name),
        summary=html.escape(_summary(rows, facts)),
        cards=_cards(rows),
        curves=_embedded(curves, "png"),
        sheets=_sheets(folder, rows),
        machine=_table(_running(folder, rows) | facts.get("machine", {})),
        config=_table(flat(facts.get("config", {}))),
    )
    with explained(
        TrainingError, f"The report cannot be written to {folder}", "free space or mend the folder"
    ):
        write_bytes_atomically(folder / "curves.png", curves)
        write_bytes_atomically(folder / "report.html", page.encode())
    return folder / "report.html"


def best_step(rows: Sequence[LogRow], name: str = "distance") -> int | None:
    """The step at which validation found the best value of that name."""
    steps, values = series(rows, "validation", name)
    if not len(steps):
        return None
    return int(steps[values.argmax() if _FIGURES[name][2] else values.argmin()])


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"clip": 1}} -> {"optim.clip": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _summary(rows: Sequence[LogRow], facts: Mapping[str, Any]) -> str:
    last = rows[-1]["step"] if rows else 0
    wanted = facts.get("config", {}).get("steps")
    of = f" of {wanted:,}" if isinstance(wanted, int) and wanted > last else ""
    return f"{last:,}{of} steps in {_duration(rows[-1]['seconds'] if rows else 0)}"


def _duration(seconds: float) -> str:
    minutes, hours = divmod(round(seconds), 60)[0], seconds / 3600
    if hours >= 1:
        return f"{int(hours)} h {minutes % 60} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.1f} s"


def _cards(rows: Sequence[LogRow]) -> str:
    cards = []
    for name, (title, form, higher) in _FIGURES.items():
        steps, values = series(rows, "validation", name)
        if not len(steps):
            continue
        best = values.argmax() if higher else values.argmin()
        _, bicubic = series(rows, "validation", f"bicubic_{name}")
        lines = [f"at the start {form.format(values[0])}"] if len(values) > 1 else []
        lines.append(f"best {form.format(values[best])} at step {int(steps[best]):,}")
        lines += [f"enlarged LQ {form.format(bicubic[-1])}"] if len(bicubic) else []
        cards.append(_card(title, form.format(values[-1]), lines))
    for name, title in (("loss", "Loss"), ("diffusion", "Regulariser's loss")):
        _, values = series(rows, "train", name)
        if len(values):
            recent = values[-max(1, len(values) // 20) :].mean()
            cards.append(_card(title, f"{recent:.4g}", [f"at the start {values[0]:.4g}"]))
    return "".join(cards)


def _card(title: str, figure: str, lines: Sequence[str]) -> str:
    below = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return (
        f'<div class="card"><h3>{html.escape(title)}</h3><p>{html.escape(figure)}</p><ul>{below}</ul></div>'
    )


def _sheets(folder: Path, rows: Sequence[LogRow]) -> str:
    """The first, the best and the last contact sheet."""
    matches = ((_SHEET.fullmatch(path.name), path) for path in (folder / "sheets").glob("step_*.png"))
    found = {int(match[1]): path for match, path in matches if match}
    if not found:
        return ""
    labels: dict[int, list[str]] = {}
    for label, step in (("first", min(found)), ("best", best_step(rows)), ("last", max(found))):
        if step in found:
            labels.setdefault(step, []).append(label)
    figures = []
    for step, names in sorted(labels.items()):
        data = _as_jpeg(found[step])
        if data is not None:
            caption = f"Step {step:,} ({' and '.join(names)})"
            figures.append(
                f"<figure><figcaption>{caption}</figcaption>"
                f'<img src="{_embedded(data, "jpeg")}" alt="Validation pictures of step {step}"></figure>'
            )
    return "<h2>Validation pictures</h2>" + "".join(figures) if figures else ""


def _as_jpeg(path: Path) -> bytes | None:
    try:
        with Image.open(path) as image:
            sheet = image.convert("RGB")
    except OSError:
        log.warning("%s cannot be read and is left out", path)
        return None
    sheet.thumbnail((_WIDEST, 10 * _WIDEST))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _running(folder: Path, rows: Sequence[LogRow]) -> dict[str, str]:
    """Speed, and what the data left out."""
    found = {"time": _duration(rows[-1]["seconds"] if rows else 0)}
    speed = seconds_per_step(rows)
    if speed is not None:
        found["seconds per step"] = f"{speed:.3g}"
    _, skipped = series(rows, "train", "skipped")
    if len(skipped):
        found["skipped pictures"] = f"{int(skipped[-1]):,}"
    both = (folder / name for name in ("weights.safetensors", "weights.pkl"))
    weights = next((path for path in both if path.exists()), None)
    if weights is not None:
        found["weights"] = f"{weights.name}, {weights.stat().st_size / 2**20:.1f} MiB"
    return found


def seconds_per_step(rows: Sequence[LogRow]) -> float | None:
    """The median over stretches of training, so that neither validation nor a pause counts; None without two rows."""
    train = [row for row in rows if row["kind"] == "train"]
    speeds = sorted(
        (later["seconds"] - row["seconds"]) / (later["step"] - row["step"])
        for row, later in itertools.pairwise(train)
        if later["step"] > row["step"]
    )
    return speeds[len(speeds) // 2] if speeds else None


def _table(values: Mapping[str, Any]) -> str:
    cells = (
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(_shown(value))}</td></tr>"
        for key, value in values.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return "; ".join(
            ", ".join(f"{k}: {_shown(v)}" for k, v in item.items())
            if isinstance(item, dict)
            else _shown(item)
            for item in value
        )
    return str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m training.run.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="a run's folder, with metrics.jsonl in it")
    args = parser.parse_args(argv)
    return run_main(lambda: log.info("%s", write_report(args.folder)), log)


if __name__ == "__main__":
    sys.exit(main())
