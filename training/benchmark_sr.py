"""The paper's Table 1 with your weights: restore data sets, measure, and set the figures beside the published ones.

    python -m training.benchmark_sr --data RealSR=DIR --data DRealSR=DIR --data DIV2K-Val=DIR --out benchmark \\
        --base v2-1_512-ema-pruned.safetensors --weights osediff.pkl

Each DIR holds LQ pictures and ground truth under the same names, in lq/ and gt/ or test_LR/ and test_HR/, as StableSR
published them, or in LR/ and HR/. Options that are not listed here go to `osediff upscale`. Results, figures and a
report of each data set are in OUT/NAME, the table in OUT/benchmark.md and .json. What is restored already is not
restored again.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osediff_core.atomic import write_bytes_atomically
from osediff_core.commands import evaluate, upscale
from osediff_core.commands.outcome import DONE, FAILED
from osediff_core.errors import OptionError, OSEDiffError
from osediff_core.evaluate.folders import PAIR_FOLDERS, pair_folders
from osediff_core.evaluate.metrics import METRICS, Metric
from osediff_core.options import METRIC_DEFAULT, parser

log = logging.getLogger("training.benchmark_sr")

PAPER = Path(__file__).with_name("paper_table1.csv")  # arXiv 2406.08177
PICTURES = {"DIV2K-Val": 3000, "DRealSR": 93, "RealSR": 100}  # that the paper's figures are of
_OURS = "OSEDiff-s1"


def published() -> dict[str, list[dict[str, Any]]]:
    """Table 1: data set -> rows of {"method": name, metric: figure}."""
    table: dict[str, list[dict[str, Any]]] = {}
    with PAPER.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            data, method = row.pop("data"), row.pop("method")
            table.setdefault(data, []).append({"method": method} | {k: float(v) for k, v in row.items()})
    return table


def run_data_set(
    name: str, folder: Path, out: Path, args: argparse.Namespace, rest: Sequence[str]
) -> dict[str, Any]:
    """Restores and measures one data set in out/NAME; returns what `osediff evaluate --json` says of it.

    Raises OptionError for a folder without pairs, or an `out` that other options were used for.
    """
    found = pair_folders(folder)
    if found is None:
        names = ", ".join(f"{lq}/ and {truth}/" for lq, truth in PAIR_FOLDERS)
        raise OptionError(
            f"{folder} has none of {names}; give the folder that holds LQ pictures and ground truth."
        )
    lq, truth = found
    results = out / name / "results"
    common = ["--device", args.device, *(["--allow-download"] if args.allow_download else [])]
    restoring = parser().parse_args(
        ["upscale", str(lq), "-o", str(results), "--skip-existing", *common, *rest]
    )
    _check_same_run(out / name, lq, rest, restoring.weights)
    restored = upscale.run(restoring)
    log.info("%s: %s", name, restored.text)
    measuring = ["--title", name, "--metrics", args.metrics, "--seed", str(args.seed)]
    measured = evaluate.run(
        parser().parse_args(
            [
                "evaluate",
                str(results),
                str(truth),
                "--lq",
                str(lq),
                "-o",
                str(out / name),
                *measuring,
                *common,
            ]
        )
    )
    complete = restored.status == measured.status == DONE
    return measured.data | {"complete": complete}


def _check_same_run(folder: Path, lq: Path, options: Sequence[str], weights: str | None) -> None:
    """Results that other options or weights made must not be taken for those of these."""
    state = None if weights is None or not Path(weights).exists() else Path(weights).stat().st_mtime_ns
    settings = {"lq": str(lq.resolve()), "options": list(options), "weights_written": state}
    file = folder / "run.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != settings:
        raise OptionError(
            f"{folder} holds results of other options, weights or pictures; choose another --out, or remove it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(file, (json.dumps(settings, indent=2) + "\n").encode())


def table(name: str, measured: dict[str, Any]) -> str:
    """Markdown: the paper's rows, then ours, its distance to the paper's OSEDiff, and bicubic."""
    metrics = [METRICS[metric["name"]] for metric in measured["metrics"]]
    paper = published().get(name, [])
    known = [m for m in METRICS.values() if m in metrics or any(m.name in row for row in paper)]
    result, bicubic = (
        {k: v["value"] for k, v in measured["summary"][method].items()} for method in ("result", "bicubic")
    )
    rows = [(row["method"], row, False) for row in paper] + [("**this run**", result, False)]
    official = next((row for row in paper if row["method"] == _OURS), None)
    if official:
        away = {k: v - official[k] for k, v in result.items() if k in official}
        rows.append((f"this run - {_OURS}", away, True))
    rows.append(("bicubic", bicubic, False))
    lines = [
        f"| {name} | " + " | ".join(f"{m.title} {m.arrow}" for m in known) + " |",
        "|---" * (len(known) + 1) + "|",
    ]
    lines += [
        f"| {label} | " + " | ".join(_cell(m, row, signed) for m in known) + " |"
        for label, row, signed in rows
    ]
    return "\n".join([*lines, "", *_remarks(name, measured)])


def _cell(metric: Metric, row: dict[str, Any], signed: bool) -> str:
    value = row.get(metric.name)
    return "–" if value is None else f"{value:{'+' if signed else ''}.{metric.digits}f}"


def _remarks(name: str, measured: dict[str, Any]) -> list[str]:
    count = len(measured["pictures"])
    remarks = [f"{count} pictures."]
    if name in PICTURES and count != PICTURES[name]:
        remarks.append(f"The paper's figures are of {PICTURES[name]}, so they are not of the same pictures.")
    if not measured["complete"]:
        remarks.append("Some pictures failed or have no partner; see the messages.")
    return [" ".join(remarks), *(f"- {reason}" for reason in measured["skipped"].values())]


def _data_set(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder or "/" in name or name.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 failed."""
    options = argparse.ArgumentParser(
        prog="python -m training.benchmark_sr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("--data", type=_data_set, action="append", required=True, metavar="NAME=FOLDER")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--metrics", default=",".join(METRIC_DEFAULT))
    options.add_argument("--seed", type=int, default=0, help="of the bootstrap intervals")
    options.add_argument("--device", default="auto")
    options.add_argument("--allow-download", action="store_true", help="of a hub id and of metrics' weights")
    args, rest = options.parse_known_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        measured = {name: run_data_set(name, folder, args.out, args, rest) for name, folder in args.data}
        page = "\n\n".join(table(name, data) for name, data in measured.items()) + "\n"
        write_bytes_atomically(args.out / "benchmark.md", page.encode())
        write_bytes_atomically(args.out / "benchmark.json", (json.dumps(measured, indent=2) + "\n").encode())
    except OSEDiffError as error:
        log.error("%s", error)
        return FAILED
    log.info("%s", page)
    return DONE if all(data["complete"] for data in measured.values()) else FAILED


if __name__ == "__main__":
    sys.exit(main())
