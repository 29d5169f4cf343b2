"""Evaluation of results: the metrics of OSEDiff's paper with its settings, and reports of them.

    from osediff_core.evaluate import evaluate, pair_up, parse_metrics

    found = evaluate(pair_up(Path("results"), Path("HR"), Path("LR")).pairs, parse_metrics("osediff"))

Nothing is downloaded unless asked; what cannot be computed on this machine is in `found.skipped`, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import loading
from .metrics import METRICS, PRESETS, parse_metrics

if TYPE_CHECKING:
    from .evaluation import Evaluation, evaluate
    from .folders import pair_up

__getattr__ = loading(
    __name__, {"Evaluation": ".evaluation", "evaluate": ".evaluation", "pair_up": ".folders"}
)

__all__ = ["METRICS", "PRESETS", "Evaluation", "evaluate", "pair_up", "parse_metrics"]
