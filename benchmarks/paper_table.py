"""The paper's Table 1 with your weights and others: restore data sets, measure, set beside the published figures.

    python -m benchmarks.paper_table --data RealSR=DIR --data DRealSR=DIR --data DIV2K-Val=DIR --out benchmark \\
        --base v2-1_512-ema-pruned.safetensors --dape ram_dape.safetensors \\
        --with osediff.pkl pisa_sr.pkl RealESRGAN_x4plus.pth StableSR=results/stablesr

Each DIR holds LQ pictures and ground truth under the same names, in lq/ and gt/ or test_LR/ and test_HR/, as StableSR
published them, or in LR/ and HR/. Options that are not listed here go to `osediff compare`, which restores and
measures: one-step methods, GAN upscalers, and folders of results of anything else. Without --with it is `tiny`.
Results, figures and a report of each data set are in OUT/NAME, the tables in OUT/benchmark.md and .json, written after
each data set. What is restored already by the same options is not restored again, so the same command goes on after
Ctrl-C.
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
from osediff_core.cli import compare
from osediff_core.cli.entry import run_main
from osediff_core.cli.main import parser
from osediff_core.cli.outcome import DONE, FAILED
from osediff_core.errors import OptionError, OSEDiffError
from osediff_core.evaluate.folders import PAIR_FOLDERS, pair_folders
from osediff_core.evaluate.metrics import DEFAULT, METRICS, Metric
from training.run.errors import TrainingError

log = logging.getLogger("benchmarks.paper_table")

PAPER = Path(__file__).with_name("paper_table1.csv")  # arXiv 2406.08177
PICTURES = {"DIV2K-Val": 3000, "DRealSR": 93, "RealSR": 100}  # that the paper's figures are of
_OSEDIFF, _OURS = "OSEDiff", "OSEDiff-s1"  # as the core calls it, and the paper


def published() -> dict[str, list[dict[str, Any]]]:
    """Table 1: data set -> rows of {"method": name, metric: figure}."""
    table: dict[str, list[dict[str, Any]]] = {}
    with PAPER.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            data, method = row.pop("data"), row.pop("method")
            table.setdefault(data, []).append({"method": method} | {k: float(v) for k, v in row.items()})
    return table


def run_data_set(
    name: str, lq: Path, truth: Path, out: Path, args: argparse.Namespace, rest: Sequence[str]
) -> dict[str, Any]:
    """Restores and measures one data set in out/NAME; returns what `osediff compare --json` says of it.

    Raises OptionError, KeyboardInterrupt, OSEDiffError.
    """
    chosen = list(rest) if "--with" in rest else [*rest, "--with", "tiny"]
    common = ["--device", args.device, *(["--allow-download"] if args.allow_download else [])]
    measuring = ["--truth", str(truth), "--title", name, "--metrics", args.metrics]
    # before what the user gave, whose --with takes all that follows
    parsed = parser().parse_args(["compare", str(lq), "-o", str(out / name), *measuring, *common, *chosen])
    found = compare.run(parsed)
    log.info("%s: %s", name, found.text)
    if found.data["interrupted"]:
        raise KeyboardInterrupt
    tagger = bool(parsed.dape or parsed.ram) or any("dape=" in one or "ram=" in one for one in parsed.methods)
    return found.data | {"complete": found.status == DONE, "tagger": tagger}


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, text.encode())
    except OSError as error:
        why = error.strerror or error
        raise TrainingError(
            f"{path} cannot be written ({why}); free space or choose another --out."
        ) from error


def table(name: str, measured: dict[str, Any]) -> str:
    """Markdown: the paper's rows, then those of this run, with OSEDiff's distance to the paper's."""
    metrics = [METRICS[metric["name"]] for metric in measured["metrics"]]
    paper = published().get(name, [])
    known = [m for m in METRICS.values() if m in metrics or any(m.name in row for row in paper)]
    rows = [(row["method"], row, False) for row in paper]
    official = next((row for row in paper if row["method"] == _OURS), None)
    for method in measured["methods"]:
        result = {metric: mean["value"] for metric, mean in method["summary"].items()}
        rows.append((f"**{method['name']}**", result, False))
        if official and method["title"] == _OSEDIFF:
            away = {k: v - official[k] for k, v in result.items() if k in official}
            rows.append((f"{method['name']} - {_OURS}", away, True))
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
    if name in PICTURES and not measured["tagger"]:
        remarks.append("The paper's prompts are DAPE's; here none was given by --dape or --ram.")
    if not measured["complete"]:
        remarks.append("Some pictures failed or have no partner; see the messages.")
    return [" ".join(remarks), *(f"- {reason}" for reason in measured["skipped"].values())]


def _data_set(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder or "/" in name or name.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 done, 1 something failed, 2 wrong options, 130 interrupted."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("--data", type=_data_set, action="append", required=True, metavar="NAME=FOLDER")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--metrics", default=",".join(DEFAULT))
    options.add_argument("--device", default="auto")
    options.add_argument("--allow-download", action="store_true", help="of a hub id and of metrics' weights")
    args, rest = options.parse_known_args(argv)
    return run_main(
        lambda: run(_data_sets(args.data), args, rest),
        log,
        interrupted="interrupted; the same command goes on with what is left",
    )


def run(data_sets: dict[str, tuple[Path, Path]], args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Every data set, and the tables after each; one that fails costs the others nothing. The exit status.

    data_sets: name -> folders of LQ and ground truth. Raises OptionError, TrainingError, KeyboardInterrupt.
    """
    measured: dict[str, dict[str, Any]] = {}
    tables: list[str] = []
    for name, (lq, truth) in data_sets.items():
        try:
            measured[name] = run_data_set(name, lq, truth, args.out, args, rest)
        except OptionError:
            raise
        except OSEDiffError as error:
            log.error("%s: %s", name, error)
            continue
        tables.append(table(name, measured[name]))
        log.info("%s", tables[-1])
        _write(args.out / "benchmark.md", "\n\n".join(tables) + "\n")
        _write(args.out / "benchmark.json", json.dumps(measured, indent=2) + "\n")
    complete = len(measured) == len(data_sets) and all(data["complete"] for data in measured.values())
    return DONE if complete else FAILED


def _data_sets(given: Sequence[tuple[str, Path]]) -> dict[str, tuple[Path, Path]]:
    """Name -> folders of LQ and ground truth. Raises OptionError where there are none, or two of a name."""
    found: dict[str, tuple[Path, Path]] = {}
    for name, folder in given:
        if name in found:
            raise OptionError(f"Two data sets are named {name}; give each a name of its own.")
        folders = pair_folders(folder)
        if folders is None:
            names = ", ".join(f"{lq}/ and {truth}/" for lq, truth in PAIR_FOLDERS)
            raise OptionError(
                f"{folder} has none of {names}; give the folder that holds LQ pictures and ground truth."
            )
        found[name] = folders
    return found


if __name__ == "__main__":
    sys.exit(main())
