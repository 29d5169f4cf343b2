"""Restore images that a run never saw with its weights, through the core, and measure each."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osediff_core.atomic import write_bytes_atomically
from osediff_core.evaluate.measure import load_measures, scores_of
from osediff_core.evaluate.metrics import METRICS
from osediff_core.generator import OneStepGenerator
from osediff_core.images import Picture
from osediff_core.pipeline import RestoreOptions, restore_picture

from ..data.fixed_pairs import ValidationPair, read_pairs
from ..run.logs import read_log
from .features import INPUT, TRUTH, CropFeatures, write_features
from .figures import FIGURES, MEASURED, SHARPNESS, WEIGHTS, Evaluation
from .prompting import SHIPPED, prompts_of
from .sharpness import sharpness


def evaluate_run(run: Path, base: str, preset: str, evaluation: Evaluation) -> None:
    """Write `run`'s figures and features: of its weights on `base`, as `osediff upscale` restores.

    preset: the degradation of the good images, as in training. Raises OSEDiffError where the weights or the images
    cannot be used.
    """
    started = time.monotonic()
    trained = OneStepGenerator.load(base, run / WEIGHTS, dtype="fp32", device="cpu")
    pairs = {
        name: read_pairs(Path(folder), evaluation.limit, evaluation.size, preset=preset)[0]
        for name, folder in evaluation.sets.items()
    }
    measured = _Measured(sum(map(len, pairs.values())), evaluation.across)
    of_input = {
        name: {p.name: measured(p.lq, p, INPUT, name) for p in of_set} for name, of_set in pairs.items()
    }
    for name, of_set in pairs.items():
        for pair in of_set:
            measured.keep(pair.hq, pair, TRUTH, name)
    prompts: dict[str, Any] = {}
    restored: dict[str, Any] = {}
    for prompting in evaluation.prompts:
        prompts[prompting], restored[prompting] = {}, {}
        generator = trained
        if prompting == SHIPPED:
            generator = OneStepGenerator.load(base, dtype="fp32", device="cpu")
        for name, of_set in pairs.items():
            said = prompts[prompting][name] = prompts_of(prompting, of_set, generator.text.fits)
            restored[prompting][name] = {
                pair.name: measured(_restored(generator, pair, said[pair.name]), pair, prompting, name)
                for pair in of_set
            }
    last = read_log(run)[-1]
    found = {
        "evaluation": evaluation.as_dict(),
        "skipped": measured.skipped,
        "training": {"steps": last["step"], "seconds": last["seconds"]},
        "input": of_input,
        "restored": restored,
        "prompts": prompts,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_features(run, measured.features)
    write_bytes_atomically(run / FIGURES, (json.dumps(found, indent=1) + "\n").encode())


class _Measured:
    """Every metric of an image, and its features, which are kept."""

    def __init__(self, count: int, across: int) -> None:
        self._measures, self.skipped = load_measures(
            [METRICS[name] for name in MEASURED],
            torch.device("cpu"),
            allow_download=False,
            with_truth=True,
            count=count,
        )
        self._features, self.features = CropFeatures(across), dict[str, Tensor]()

    def __call__(self, image: np.ndarray, pair: ValidationPair, kind: str, name: str) -> dict[str, Any]:
        """Of uint8 (H, W, 3), made of `pair` of the set `name`."""
        self.keep(image, pair, kind, name)
        return {**scores_of(self._measures, image, pair.hq, []), SHARPNESS: sharpness(image, pair.hq)}

    def keep(self, image: np.ndarray, pair: ValidationPair, kind: str, name: str) -> None:
        """The features alone."""
        self.features[f"{kind}/{name}/{pair.name}"] = self._features(image)


def _restored(generator: OneStepGenerator, pair: ValidationPair, prompt: str) -> np.ndarray:
    """uint8 (H, W, 3), with the default colour fix."""
    lq = Picture(pair.lq.astype(np.float32) / 255)
    return restore_picture(generator, lq, RestoreOptions(scale=1, prompt=prompt)).rgb8()
