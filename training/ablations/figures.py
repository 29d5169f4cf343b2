"""What a run is measured on, and the file of its figures.

RUN/figures.json:

    {"evaluation": what was measured, "skipped": {"niqe": why}, "seconds": 21.3,
     "training": {"steps": 300, "seconds": 182.4},
     "input": {SET: {PICTURE: {"psnr": 25.1, "d2": 0.91}}},               the low-quality picture, enlarged
     "restored": {PROMPTING: {SET: {PICTURE: {"psnr": …, "d2": …}}}},
     "prompts": {PROMPTING: {SET: {PICTURE: "sky, tree"}}}}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FIGURES = "figures.json"
WEIGHTS = "weights.safetensors"  # what a training writes last
MEASURED = ("psnr", "d2", "niqe")  # of osediff_core.evaluate
DEGRADED, REAL = "degraded", "real"  # the sets
SET_TITLES = {DEGRADED: "degraded pictures", REAL: "real pairs"}
_KEYS = {"evaluation", "skipped", "seconds", "training", "input", "restored", "prompts"}


@dataclass(frozen=True)
class Evaluation:
    """What is measured on.

    sets: name -> folder of good pictures, which are degraded here, or of LR/ and HR/. prompts: of plan.PROMPTINGS.
    size: px, side of the centre crops. limit: pictures a set.
    """

    sets: dict[str, str]
    prompts: tuple[str, ...]
    size: int
    limit: int

    def as_dict(self) -> dict[str, Any]:
        """In the types that JSON gives back."""
        return asdict(self) | {"prompts": list(self.prompts)}

    def is_done(self, run: Path) -> bool:
        """Whether `run` holds these figures."""
        found = read_figures(run)
        return found is not None and found["evaluation"] == self.as_dict()


def is_trained(run: Path) -> bool:
    """Whether `run` was trained to its end."""
    return (run / WEIGHTS).is_file()


def read_figures(run: Path) -> dict[str, Any] | None:
    """The file's content; None where there is none yet, or none that can be read."""
    try:
        found = json.loads((run / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() == _KEYS else None
