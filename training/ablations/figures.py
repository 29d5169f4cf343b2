"""What a run is measured on, and the file of its figures.

RUN/figures.json:

    {"evaluation": what was measured, "skipped": {"niqe": why}, "seconds": 21.3,
     "training": {"steps": 600, "seconds": 182.4},
     "input": {SET: {PICTURE: {"psnr": 25.1, "d2": 0.91}}},               the low-quality picture, enlarged
     "restored": {PROMPTING: {SET: {PICTURE: {"psnr": …, "d2": …}}}},
     "prompts": {PROMPTING: {SET: {PICTURE: "sky, tree"}}}}

Features for KID lie beside it (features.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osediff_core.evaluate.metric import Metric
from osediff_core.evaluate.metrics import METRICS as OF_CORE

FIGURES = "figures.json"
WEIGHTS = "weights.safetensors"  # what a training writes last
MEASURED = ("psnr", "d2", "niqe")  # by osediff_core.evaluate
SHARPNESS, KID = "sharpness", "kid"
METRICS = {
    **{name: OF_CORE[name] for name in MEASURED},
    KID: Metric(KID, "KID", False, True, 2, "efficientnet-lite", "1000 times, Lite2", of_set=True),
    SHARPNESS: Metric(SHARPNESS, "sharpness", True, True, 3, "torch", "Laplacian of luma, of the truth's"),
}
DEGRADED, REAL = "degraded", "real"  # the sets
SET_TITLES = {DEGRADED: "degraded pictures", REAL: "real pairs"}
_KEYS = {"evaluation", "skipped", "seconds", "training", "input", "restored", "prompts"}


@dataclass(frozen=True)
class Evaluation:
    """What is measured on.

    sets: name -> folder of good pictures, which are degraded here, or of LR/ and HR/. prompts: of prompting.PROMPTINGS.
    size: px, side of the centre crops. limit: pictures a set. across: KID looks at so many squares of a row.
    """

    sets: dict[str, str]
    prompts: tuple[str, ...]
    size: int
    limit: int
    across: int = 2

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
