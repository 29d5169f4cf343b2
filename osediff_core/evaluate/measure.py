"""One picture through every metric that can be computed on this machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..errors import first_line
from ..interrupts import pass_on
from .metric import ImageMeasure, Measure, Metric, MetricUnavailable
from .metrics import load_measure

logger = logging.getLogger(__name__)

# FID compares means and covariances of 2048 features; from a few pictures both are noise.
LEAST_FOR_FID = 50

RESULT, BICUBIC, DIFFERENCE = "result", "bicubic", "difference"  # whose scores they are

Loaded = tuple[dict[Metric, Measure], dict[str, str]]
Scores = dict[str, float | None]  # by metric; None where it could not give one


def load_measures(
    metrics: Sequence[Metric], device: torch.device, allow_download: bool, with_truth: bool, count: int
) -> Loaded:
    """The metrics that can be computed here of `count` pictures, and why the rest cannot: one sentence each.

    Raises MetricUnavailable if nothing can.
    """
    measures: dict[Metric, Measure] = {}
    skipped: dict[str, str] = {}
    for metric in metrics:
        try:
            if metric.truth and not with_truth:
                raise MetricUnavailable(f"{metric.title} compares with a ground truth; give one.")
            if metric.of_set and count < LEAST_FOR_FID:
                raise MetricUnavailable(
                    f"{metric.title} of fewer than {LEAST_FOR_FID} pictures says nothing, and there are {count}; "
                    "give more."
                )
            measures[metric] = load_measure(metric, device, allow_download)
        except MetricUnavailable as error:
            skipped[metric.name] = str(error)
            logger.warning("%s is skipped: %s", metric.title, error)
    if not measures:
        raise MetricUnavailable(f"No metric can be computed here: {' '.join(skipped.values())}")
    return measures, skipped


def scores_of(
    measures: Mapping[Metric, Measure], image: np.ndarray, truth: np.ndarray | None, notes: list[str]
) -> Scores:
    """Of one picture, uint8 (H, W, 3) as `truth` is; what is missing is added to `notes`, with the reason."""
    scores: Scores = {}
    picture, reference = as_tensor(image), None if truth is None else as_tensor(truth)
    for metric, measure in measures.items():
        scores[metric.name] = value = None
        shortest = min(image.shape[:2])
        try:
            if metric.truth and truth is None:
                reason = "there is no ground truth"
            elif shortest < metric.least:
                reason = f"a side of {shortest} px is shorter than the {metric.least} px that it takes"
            else:
                with torch.inference_mode():
                    value = cast("ImageMeasure", measure)(picture, reference)
                reason = "it came out as no number"
        except Exception as error:  # whatever one metric meets must not cost the others
            pass_on(error)
            reason = f"{type(error).__name__}: {first_line(error)}"
        if value is not None and math.isfinite(value):
            scores[metric.name] = value
        else:
            notes.append(f"{metric.title} is missing: {reason}")
            logger.warning("%s", notes[-1])
    return scores


def as_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
