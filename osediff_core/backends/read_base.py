"""A base model as it lies on disk: configs and mapped tensors of its parts, before any network is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from .find_base import Source
from .single_file import split_single_file
from .tensor_files import Tensors, read_identified, read_json, read_part

PARTS = ("unet", "vae", "text_encoder")
SD21_BASE = Path(__file__).parent / "sd21_base"

_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


@dataclass
class RawBase:
    """configs, tensors: by part. tokenizer: its folder. scheduler: its config."""

    configs: dict[str, dict[str, Any]]
    tensors: dict[str, Tensors]
    tokenizer: Path
    scheduler: dict[str, Any]


def read_raw(source: Source, configs: Path = SD21_BASE) -> RawBase:
    """Read a diffusers folder or a single-file checkpoint.

    configs: for a single file, which holds tensors only, the folder with the configs, the tokenizer and the
    schedule of its model (SD 2.1-base by default). Raises BaseModelError.
    """
    whole = source.path.is_file()
    folder = configs if whole else source.path
    part_configs = {part: read_json(folder / part / "config.json") for part in PARTS}
    for part, class_name in _CLASSES.items():
        found = part_configs[part].get("_class_name", class_name)
        if found != class_name:
            raise BaseModelError(
                f"The {part} of {source.name} is a {found}, but OSEDiff needs a {class_name}; use a base "
                "such as Stable Diffusion 2.1-base."
            )
    if whole:
        tensors = split_single_file(*read_identified(source.path), part_configs, source.name)
    else:
        tensors = {part: read_part(folder / part, _STEMS[part]) for part in PARTS}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return RawBase(part_configs, tensors, folder / "tokenizer", scheduler)
