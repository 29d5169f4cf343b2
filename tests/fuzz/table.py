"""The page of docs/reliability.md: what came of the inputs, by family."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .server import FAULTS

_BEGIN, _END = "<!-- made by python -m tests.fuzz --table -->", "<!-- end -->"


def write_table(page: Path, rows: list[dict[str, Any]], seed: int) -> None:
    """Replace the table between the page's two marks."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{_table(rows, seed)}\n{_END}{after}", encoding="utf-8")


def _table(rows: list[dict[str, Any]], seed: int) -> str:
    families = list(dict.fromkeys(row["family"] for row in rows))
    lines = [
        f"| family | inputs | done | refused | interrupted | {' | '.join(FAULTS)} |",
        f"| --- | {' | '.join(['---:'] * (4 + len(FAULTS)))} |",
    ]
    for family in [*families, None]:
        mine = [row for row in rows if family in (None, row["family"])]
        codes = Counter(row["status"] for row in mine)
        faults = Counter(fault for row in mine for fault in row["faults"])
        numbers = [
            len(mine),
            codes[0],
            codes[1] + codes[2],
            codes[130] + codes[143],
            *(faults[name] for name in FAULTS),
        ]
        lines.append(f"| {family or '**all**'} | {' | '.join(f'{number:,}' for number in numbers)} |")
    slowest = max((row["cpu"] for row in rows), default=0)
    lines.append(f"\nSeed {seed}; {len(rows):,} distinct inputs; the slowest took {slowest:.0f} s of CPU.")
    return "\n".join(lines)
