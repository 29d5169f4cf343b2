"""Results of a run: the generator's weights with the average, in the formats that others read."""

from __future__ import annotations

import logging
from pathlib import Path

from osediff_core.errors import CheckpointError
from osediff_core.weights.checkpoint import write_weights
from osediff_core.weights.formats import osediff, osediff_safetensors, pisa_sr
from osediff_core.weights.one_step_weights import OneStepWeights

from .networks import Networks
from .run.updater import Updater

log = logging.getLogger("training")


def averaged_weights(networks: Networks, generator: Updater, step: int) -> OneStepWeights:
    """Copies of what the generator has after `step` steps."""
    with generator.averaged():
        return networks.weights({"steps": str(step)})


def weights_name(networks: Networks) -> str:
    """The name of the weights in a checkpoint; PiSA-SR has a format of its own alone."""
    return "weights.pkl" if networks.method == pisa_sr.METHOD else "weights.safetensors"


def weights_bytes(networks: Networks, generator: Updater, step: int) -> bytes:
    """The content of that file."""
    write = pisa_sr.write if networks.method == pisa_sr.METHOD else osediff_safetensors.write
    return write(averaged_weights(networks, generator, step))


def write_results(folder: Path, networks: Networks, generator: Updater, step: int, pkl: bool) -> None:
    """weights.safetensors, and with `pkl` weights.pkl where the official format can hold them."""
    weights = averaged_weights(networks, generator, step)
    write_weights(folder / weights_name(networks), weights)
    if pkl and networks.method == osediff.METHOD:
        try:
            write_weights(folder / "weights.pkl", weights)
        except CheckpointError as error:
            log.info("weights.pkl is left out: %s", error)
