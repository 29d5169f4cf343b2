"""Give the trained tagger its thresholds, on photographs that are neither trained on nor held out.

    python -m training.recipes.tiny_dape.calibrate --photos photos --labels runs/tiny_dape/labels --out runs/tiny_dape

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
from .targets import MEASURED, SEEN, choose_vocabulary, measured_targets, targets
from .train import BASE_FILE, UNTRAINED_FILE, scores_of

log = logging.getLogger(__name__)

# Share of the crops given a tag that should have it. The few photographs here flatter: on others the share is lower.
PRECISION = 0.9
_ENOUGH = 4  # photographs with a tag, below which nothing is known of it
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
    scores: np.ndarray,
    wanted: np.ndarray,
    known: np.ndarray,
    photos: np.ndarray,
    precision: float = PRECISION,
) -> np.ndarray:
    """scores (N, tags), wanted and known bool (N, tags), photos (N,) numbers -> (tags,).

    A tag that too few photographs have is never given.
    """
    found = np.full(scores.shape[1], _NEVER)
    for tag in range(len(found)):
        rows = known[:, tag]
        if len(np.unique(photos[rows & wanted[:, tag]])) >= _ENOUGH:
            found[tag] = threshold_for(scores[rows, tag], wanted[rows, tag], precision)
    return found


def calibrate(photos: Path, labels: Path, out: Path) -> Path:
    """Write the tagger with its thresholds in half precision; returns its file."""
    photographs = find_photographs(photos)
    training, found = Labels.read(labels, TRAIN), Labels.read(labels, CALIBRATION)
    vocabulary = choose_vocabulary(photographs, training.classes, training.photos)
    wanted, weights = targets(
        vocabulary, photographs, found.images, found.photos, found.wide, found.mixed, found.classes
    )
    # Colours are measured and not looked up, so that crops of the training photographs can be judged by them as well.
    every = slice(None, None, len(training.images) // len(found.images))
    more = training.images[every]
    measured = vocabulary.of_kind(MEASURED)
    of_more, known = (
        np.zeros((len(more), len(measured))),
        np.broadcast_to(measured, (len(more), len(measured))),
    )
    of_more[:, measured] = measured_targets(vocabulary, more)
    tagger = read_tagger(out / UNTRAINED_FILE, dtype=torch.float16).network().float()
    chosen = thresholds(
        scores_of(tagger, np.concatenate([found.images, more])),
        np.concatenate([wanted, of_more]) > SEEN,
        np.concatenate([weights > 0, known]),
        np.concatenate([found.photos, training.photos[every]]),
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
