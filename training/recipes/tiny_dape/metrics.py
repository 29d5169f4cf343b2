"""How well scores order and name what there is."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torchmetrics.functional.classification import multilabel_average_precision


def average_precisions(scores: np.ndarray, wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of each tag: scores (N, tags), wanted and known bool (N, tags) -> (tags,), NaN where it is never wanted."""
    target = np.where(known, wanted.astype(np.int64), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags without a positive, which become NaN below
        found = multilabel_average_precision(
            torch.from_numpy(scores).float(),
            torch.from_numpy(target),
            num_labels=scores.shape[1],
            average="none",
            ignore_index=-1,
        ).numpy()
    return np.where((wanted & known).any(axis=0), found, np.nan)


def prevalence(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of each tag: its share of what is known, the average precision of a guess; NaN where it is never wanted."""
    share = (wanted & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where((wanted & known).any(axis=0), share, np.nan)


def agreement(scores: np.ndarray, right: np.ndarray, k: int) -> float:
    """Share of the rows that have a right answer (bool (N, tags)) among the k highest scores."""
    top = np.argsort(-scores, axis=1)[:, :k]
    return float(np.take_along_axis(right, top, axis=1).any(axis=1).mean())
