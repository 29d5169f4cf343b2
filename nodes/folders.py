"""Folders of the pack's files, and the choices that nodes offer from them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from ..osediff_core.backends.find_base import DEFAULT_WEIGHTS, PACKAGED
from ..osediff_core.errors import CheckpointError
from ..osediff_core.weights.one_step_weights import OneStepWeights
from ..osediff_core.weights.tensor_file import ADAPTER, has_adapters

if TYPE_CHECKING:
    from ..osediff_core.method import Method

FOLDER = "osediff"
EMBEDDED = "tiny (embedded)"
NONE = "none"
TINY = PACKAGED["tiny"]
_SUFFIXES = {".safetensors", ".pkl", ".pt", ".pth", ".ckpt"}
_SOURCE = "preset/models of https://github.com/cswry/OSEDiff"


def register() -> None:
    """Make models/osediff, known to ComfyUI beside what a user's extra_model_paths.yaml says of it."""
    models = os.path.join(folder_paths.models_dir, FOLDER)
    with suppress(OSError):  # a read-only installation has its files elsewhere
        os.makedirs(models, exist_ok=True)
    folder_paths.add_model_folder_path(FOLDER, models)
    # as ComfyUI does for what its own Save nodes write, so that it can be chosen without being moved
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.get_output_directory(), FOLDER))
    paths, suffixes = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(suffixes) | _SUFFIXES)


def weights_choices() -> list[str]:
    """The embedded OSEDiff weights, every file in models/osediff, and the folders that hold a method's adapters."""
    files = folder_paths.get_filename_list(FOLDER)
    return [EMBEDDED, *dict.fromkeys(adapters_of(name) or name for name in files)]


def adapters_of(name: str) -> str | None:
    """FOLDER of "FOLDER/HALF/adapter_model.safetensors": weights whose halves lie in folders of their own."""
    path = Path(name)
    whole = path.name == ADAPTER and len(path.parents) > 2
    return str(path.parents[1]) if whole else None


def base_choices() -> list[str]:
    """The embedded base, and every file in models/checkpoints."""
    return [EMBEDDED, *folder_paths.get_filename_list("checkpoints")]


def weights_path(name: str) -> Path:
    """The file of a choice. Raises CheckpointError, with the folders and the source, if it is gone."""
    if name == EMBEDDED:
        return TINY / DEFAULT_WEIGHTS
    path = path_or_none(FOLDER, name)
    if path is None:
        raise CheckpointError(
            missing_file(FOLDER, name, f"OSEDiff weights (osediff.pkl, from {_SOURCE})", "others")
        )
    return Path(path)


def decoder_path(name: str) -> Path:
    """The file of a light decoder. Raises CheckpointError, with the folders, if it is gone."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise CheckpointError(missing_file(FOLDER, name, "AdcSR's or VOSR's light decoder", "another"))
    return Path(path)


def missing_file(folder: str, name: str, wanted: str, others: str) -> str:
    """The message for a choice whose file is gone: where it was looked for, and what belongs there."""
    folders = " or ".join(folder_paths.get_folder_paths(folder))
    return f"There is no file {name} in {folders}; put {wanted} there and press R to refresh, or choose {others}."


def read_chosen(name: str, method: str | None = None) -> OneStepWeights:
    """The weights of a choice, under its name in messages; method: as in `read_weights`. Raises CheckpointError."""
    from ..osediff_core.weights.checkpoint import read_weights

    weights = read_weights(weights_path(name), method)
    weights.source = name
    return weights


def method_of(name: str) -> Method:
    """The facts of the method that a choice is of. Raises CheckpointError for a file of none, or that is gone."""
    from ..osediff_core.weights.formats import facts_of, format_of
    from ..osediff_core.weights.tensor_file import TensorFile

    known = format_of(TensorFile.open(weights_path(name)))
    return facts_of("") if known is None else known.about  # what is wrong with it, its loader says


def path_or_none(folder: str, name: str) -> str | None:
    """The path of a choice's file, for the cache; None for the embedded ones, which never change."""
    if name in (EMBEDDED, NONE):
        return None
    within = [os.path.join(root, name) for root in folder_paths.get_folder_paths(folder)]
    adapters = next((path for path in within if has_adapters(Path(path))), None)
    return adapters or folder_paths.get_full_path(folder, name)
