"""Thousands of bad inputs for the command `osediff`, each in a process of its own, and a table of what came of them.

    python -m tests.fuzz                              # 3,000 inputs, about half an hour on one core
    python -m tests.fuzz --count 100 --seed 7         # others, and fewer
    python -m tests.fuzz --case images/17             # one again, with what it printed

Interrupted, it goes on where it was: `--state` holds a line for each input done, and an input follows from the seed and
its number alone. What showed a fault is tried again first. `--table` writes the page of docs/reliability.md. POSIX
only: an input is a fork of a process that has everything imported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Collection
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

from .families import FAMILIES
from .seeds import make_seeds
from .server import Server
from .table import write_table

SHARES = {"images": 8, "checkpoints": 8, "bases": 8, "options": 5, "paths": 2, "signals": 1}


def main() -> int:
    """Exit code 1 if any input showed a fault."""
    args = _arguments()
    seeds = make_seeds(Path(tempfile.mkdtemp(prefix="fuzz-seeds-")))
    server = Server(FAMILIES, seeds, args.seed)
    if args.case:
        family, _, number = args.case.partition("/")
        found = server.run(family, int(number))
        sys.stdout.write(f"{json.dumps(found.row, indent=1)}\n{found.said}\n")
        return bool(found.row["faults"])
    rows = [json.loads(line) for line in args.state.read_text().splitlines()] if args.state.exists() else []
    rows = list({(row["family"], row["number"]): row for row in rows if row["seed"] == args.seed}.values())
    known = {row["digest"] for row in rows}
    args.state.parent.mkdir(parents=True, exist_ok=True)
    with args.state.open("a") as state:
        for row in rows:  # a fault may be mended by now
            if row["faults"]:
                row |= _run(server, state, row["family"], row["number"])
        numbers = {family: 0 for family in SHARES}
        for row in rows:
            numbers[row["family"]] = max(numbers[row["family"]], row["number"] + 1)
        for family in cycle(family for family, share in SHARES.items() for _ in range(share)):
            if len(rows) >= args.count:
                break
            row = _run(server, state, family, numbers[family], known)
            numbers[family] += 1
            if row:
                rows.append(row)
                known.add(row["digest"])
    if args.table:
        write_table(args.table, rows, args.seed)
    faults = sum(bool(row["faults"]) for row in rows)
    sys.stdout.write(
        f"{len(rows)} inputs, {faults} with faults; {sum(r['cpu'] for r in rows):.0f} s of CPU\n"
    )
    return bool(faults)


def _run(
    server: Server, state: TextIO, family: str, number: int, known: Collection[str] = ()
) -> dict[str, Any]:
    """What came of an input, also written into `state`; nothing of one that is known."""
    found = server.run(family, number)
    if found.row["digest"] in known:
        return {}
    state.write(json.dumps(found.row) + "\n")
    state.flush()
    if found.row["faults"]:
        sys.stderr.write(f"{family}/{number}: {', '.join(found.row['faults'])}: {found.said[-600:]!r}\n")
    return found.row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--count", type=int, default=3000, help="inputs of all families (default: 3000)")
    parser.add_argument("--case", metavar="FAMILY/N", help="one input, and what it printed")
    default = Path(tempfile.gettempdir()) / "osediff-fuzz.jsonl"
    parser.add_argument("--state", type=Path, default=default, help="what is done (default: %(default)s)")
    parser.add_argument("--table", type=Path, metavar="PAGE.md", help="write the table into this page")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
