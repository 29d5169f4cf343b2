"""Restore pictures that a run never saw with its weights, through the core, and measure each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osediff_core.atomic import write_bytes_atomically
from osediff_core.dape import fitting_prompt
from osediff_core.dape.choice import TINY, open_tagger
from osediff_core.evaluate.measure import load_measures, scores_of
from osediff_core.evaluate.metrics import METRICS
from osediff_core.generator import OneStepGenerator
from osediff_core.images import Picture
from osediff_core.pipeline import RestoreOptions, restore_picture

from ..data.pictures import to_tensor
from ..run.logs import read_log
from ..validate import Validation, ValidationPair
from .figures import FIGURES, MEASURED, WEIGHTS, Evaluation

_PRESET = "light"  # as in training; seeded by training/validate.py


def evaluate_run(run: Path, base: str, evaluation: Evaluation) -> None:
    """Write `run`'s figures: of its weights on `base`, as `osediff upscale` restores.

    Raises OSEDiffError where the weights or the pictures cannot be used.
    """
    started = time.monotonic()
    generator = OneStepGenerator.load(base, run / WEIGHTS, dtype="fp32", device="cpu")
    pairs = {
        name: Validation.from_folder(Path(folder), evaluation.limit, evaluation.size, preset=_PRESET).pairs
        for name, folder in evaluation.sets.items()
    }
    metrics, count = [METRICS[name] for name in MEASURED], sum(map(len, pairs.values()))
    measures, skipped = load_measures(
        metrics, torch.device("cpu"), allow_download=False, with_truth=True, count=count
    )

    def measured(image_of: Callable[[str, ValidationPair], np.ndarray]) -> dict[str, dict[str, Any]]:
        return _each(pairs, lambda name, pair: scores_of(measures, image_of(name, pair), pair.hq, []))

    prompts, restored = {}, {}
    for prompting in evaluation.prompts:
        prompt_of = prompter(prompting, generator.text.fits)
        said = prompts[prompting] = _each(pairs, lambda _, pair, of=prompt_of: of(pair))
        restored[prompting] = measured(
            lambda name, pair, said=said: _restored(generator, pair, said[name][pair.name])
        )
    last = read_log(run)[-1]
    found = {
        "evaluation": evaluation.as_dict(),
        "skipped": skipped,
        "training": {"steps": last["step"], "seconds": last["seconds"]},
        "input": measured(lambda _, pair: pair.lq),
        "restored": restored,
        "prompts": prompts,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_bytes_atomically(run / FIGURES, (json.dumps(found, indent=1) + "\n").encode())


def _each(
    pairs: dict[str, list[ValidationPair]], value: Callable[[str, ValidationPair], Any]
) -> dict[str, dict[str, Any]]:
    """value(set, pair) of every pair, by set and picture."""
    return {name: {pair.name: value(name, pair) for pair in of_set} for name, of_set in pairs.items()}


def prompter(prompting: str, fits: Callable[[str], bool]) -> Callable[[ValidationPair], str]:
    """The prompt of a pair, as plan.PROMPTINGS explains. fits: whether the text encoder takes all of a prompt."""
    if prompting == "none":
        return lambda pair: ""
    on_lq = prompting == "dape"
    tagger = open_tagger(TINY if on_lq else None, None if on_lq else TINY, dtype="fp32", device="cpu")

    def prompt(pair: ValidationPair) -> str:
        picture = pair.lq if on_lq else pair.hq
        return fitting_prompt(tagger.tag(to_tensor(picture[None]))[0], "", fits)

    return prompt


def _restored(generator: OneStepGenerator, pair: ValidationPair, prompt: str) -> np.ndarray:
    """uint8 (H, W, 3), with the default colour fix."""
    lq = Picture(pair.lq.astype(np.float32) / 255)
    return restore_picture(generator, lq, RestoreOptions(scale=1, prompt=prompt)).rgb8()
