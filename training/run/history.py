"""One line of history in a run's folder: what came after a checkpoint that was gone back to is set aside.

RUN/abandoned/1_after_step_00000500/
    checkpoints/   those of later steps
    sheets/        validation's pictures of later steps
    metrics.jsonl  the log as it was
    weights.*, ... results, if the run had ended
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .checkpoints import all_checkpoints
from .logs import METRICS

_ABANDONED = re.compile(r"(\d+)_after_step_(\d+)")
_SHEET = re.compile(r"step_(\d+)\.png")
_RESULTS = ("weights.*", "DAPE.pth", "tagger.safetensors", "report.html", "curves.png")


def set_aside(run: Path, step: int) -> Path | None:
    """Move what the run has beyond `step`; where to, or None where no checkpoint is later. Raises OSError.

    The latest goes first: a kill on the way leaves a shorter line, not another one.
    """
    later = {number: path for number, path in all_checkpoints(run / "checkpoints").items() if number > step}
    if not later:
        return None
    target = run / "abandoned" / f"{len(_abandoned(run)) + 1}_after_step_{step:08d}"
    for folder in ("checkpoints", "sheets"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    if (run / METRICS).exists():
        shutil.copy2(run / METRICS, target)
    for pattern in _RESULTS:
        for path in run.glob(pattern):
            path.rename(target / path.name)
    for path in (run / "sheets").glob("step_*.png"):
        match = _SHEET.fullmatch(path.name)
        if match and int(match[1]) > step:
            path.rename(target / "sheets" / path.name)
    for number in sorted(later, reverse=True):
        later[number].rename(target / "checkpoints" / later[number].name)
    return target


def gone_back_to(run: Path) -> set[int]:
    """The steps of this line of history from which an earlier one was left."""
    steps: set[int] = set()
    for _, step in sorted(_abandoned(run)):
        steps = {earlier for earlier in steps if earlier <= step} | {step}
    return steps


def _abandoned(run: Path) -> list[tuple[int, int]]:
    """(number, step) of every line that was left."""
    matches = (_ABANDONED.fullmatch(path.name) for path in (run / "abandoned").glob("*_after_step_*"))
    return [(int(match[1]), int(match[2])) for match in matches if match]
