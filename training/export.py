"""Results of a run: the generator's weights with the average, in the formats that others read."""

from __future__ import annotations

import logging
from pathlib import Path

from osediff_core.errors import CheckpointError, OSEDiffError
from osediff_core.lora_export import export_lora
from osediff_core.weights.checkpoint import write_weights
from osediff_core.weights.formats import osediff, osediff_safetensors, pisa_sr
from osediff_core.weights.one_step_weights import OneStepWeights

from .config import TrainConfig
from .networks import Networks
from .publish import check_can_publish, publish
from .run.updater import Updater

log = logging.getLogger("training")


def check_exports(config: TrainConfig) -> None:
    """Refuse before the training what could not be done after it. Raises OptionError."""
    if config.push_to_hub:
        check_can_publish(config.push_to_hub)


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


def write_results(
    folder: Path, networks: Networks, generator: Updater, step: int, config: TrainConfig
) -> None:
    """weights.safetensors, and what else the configuration asks for.

    weights.pkl where the official format can hold them. A hub that does not take the results ends no run: it is said.
    """
    weights = averaged_weights(networks, generator, step)
    write_weights(folder / weights_name(networks), weights)
    if config.export_pkl and networks.method == osediff.METHOD:
        try:
            write_weights(folder / "weights.pkl", weights)
        except CheckpointError as error:
            log.info("weights.pkl is left out: %s", error)
    for layout in config.export_lora:
        vae = folder / "vae" if weights.vae_lora else None
        export_lora(weights, folder / f"lora_{layout}.safetensors", layout, config.model.base, vae=vae)
    if config.push_to_hub:
        try:
            log.info("published: %s", publish(folder, config.push_to_hub))
        except OSEDiffError as error:
            log.warning("not published: %s", error)
