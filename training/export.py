"""Results of a run: the generator's weights with the average, in the formats that others read."""

from __future__ import annotations

import logging
from pathlib import Path

from osediff_core.errors import CheckpointError
from osediff_core.weights.checkpoint import write_weights
from osediff_core.weights.formats import osediff_safetensors
from osediff_core.weights.one_step_weights import OneStepWeights

from .networks import Networks
from .run.updater import Updater

log = logging.getLogger("training")


def averaged_weights(networks: Networks, generator: Updater, step: int) -> OneStepWeights:
    """Copies of what the generator has after `step` steps."""
    with generator.averaged():
        return networks.weights({"steps": str(step)})


def weights_bytes(networks: Networks, generator: Updater, step: int) -> bytes:
    """The content of a checkpoint's weights.safetensors."""
    return osediff_safetensors.write(averaged_weights(networks, generator, step))


def write_results(folder: Path, networks: Networks, generator: Updater, step: int, pkl: bool) -> None:
    """weights.safetensors, and with `pkl` weights.pkl where the official format can hold them."""
    weights = averaged_weights(networks, generator, step)
    write_weights(folder / "weights.safetensors", weights)
    if pkl:
        try:
            write_weights(folder / "weights.pkl", weights)
        except CheckpointError as error:
            log.info("weights.pkl is left out: %s", error)
