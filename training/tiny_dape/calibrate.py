"""Give the trained tagger its thresholds, on photographs that are neither trained on nor held out.

    python -m training.tiny_dape.calibrate --photos photos --labels runs/tiny_dape/labels --out runs/tiny_dape

The result, OUT/base.safetensors, is what RAM is to DAPE.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from osediff_core.dape.weights import read_tagger, write_tagger

from .label import Labels
from .photographs import CALIBRATION, TRAIN, find_photographs
from .targets import SEEN, choose_vocabulary, targets
from .train import BASE_FILE, UNTRAINED_FILE, scores_of

log = logging.getLogger(__name__)

PRECISION = 0.75  # share of the crops given a tag, by thresholds, that should have it
_ENOUGH = 20  # crops with a tag from which on it gets a threshold of its own
_FALSE_ALARMS = 0.005  # share of the crops without a rarer tag that may be given it
_NEVER = 1.0  # as RAM's list has for tags that do not work
METADATA = {
    "what": "tiny DAPE: a tagger in RAM's classes for examples, tests and demos; see README.md beside it",
    "labels": "EfficientNet-Lite0 and -Lite2 through WordNet, lists of photographs, measured colours",
    "licence": "Apache-2.0",
}


def threshold_for(scores: np.ndarray, wanted: np.ndarray, precision: float) -> float:
    """The lowest threshold above which at least `precision` of what is left is wanted; 1 where there is none.

    scores, wanted: (N,).
    """
    order = np.argsort(-scores)
    right = np.cumsum(wanted[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(right >= precision)
    if not len(good):
        return _NEVER
    last = good[-1]
    below = scores[order[last + 1]] if last + 1 < len(order) else 0.0
    return float((scores[order[last]] + below) / 2)


def thresholds(
    scores: np.ndarray, wanted: np.ndarray, known: np.ndarray, kinds: np.ndarray, precision: float = PRECISION
) -> np.ndarray:
    """scores (N, tags), wanted and known bool (N, tags), kinds (tags,) -> (tags,).

    A tag that enough crops have is judged by them. Others take the threshold of all tags of their kind together, or a
    higher one where that would give too many crops a tag that they do not have.
    """
    found = np.empty(scores.shape[1])
    for kind in np.unique(kinds):
        own = kinds == kind
        there = known[:, own]
        common = threshold_for(scores[:, own][there], wanted[:, own][there], precision)
        for tag in np.flatnonzero(own):
            rows = known[:, tag]
            values, right = scores[rows, tag], wanted[rows, tag]
            if right.sum() >= _ENOUGH:
                found[tag] = threshold_for(values, right, precision)
            else:
                quiet = np.quantile(values[~right], 1 - _FALSE_ALARMS) if (~right).any() else 0.0
                found[tag] = max(common, float(quiet))
    return found


def calibrate(photos: Path, labels: Path, out: Path) -> Path:
    """Write the tagger with its thresholds in half precision; returns its file."""
    photographs = find_photographs(photos)
    training, found = Labels.read(labels, TRAIN), Labels.read(labels, CALIBRATION)
    vocabulary = choose_vocabulary(photographs, training.classes, training.photos)
    wanted, weights = targets(
        vocabulary, photographs, found.images, found.photos, found.wide, found.mixed, found.classes
    )
    tagger = read_tagger(out / UNTRAINED_FILE, dtype=torch.float16).network().float()
    chosen = thresholds(
        scores_of(tagger, found.images), wanted > SEEN, weights > 0, np.array(vocabulary.kinds)
    )
    weights_file = read_tagger(out / UNTRAINED_FILE)
    weights_file.config = replace(weights_file.config, thresholds=tuple(round(float(t), 4) for t in chosen))
    weights_file.metadata = METADATA
    path = out / BASE_FILE
    write_tagger(path, weights_file, "fp16")
    never = [name for name, value in zip(vocabulary.names, chosen, strict=True) if value >= _NEVER]
    log.info("%d tags, of which these never appear: %s", len(chosen), ", ".join(never) or "none")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="the folder of fetch_photos")
    parser.add_argument("--labels", type=Path, required=True, help="the folder of label")
    parser.add_argument("--out", type=Path, required=True, help="the folder of train")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%s", calibrate(args.photos, args.labels, args.out))


if __name__ == "__main__":
    main()
