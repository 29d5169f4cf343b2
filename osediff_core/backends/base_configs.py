"""The configurations of a base, checked once, before anything is built from them.

What is not known here is not passed on: a configuration comes with its weights from strangers, and the libraries take
many names in it as orders (to fetch code for the attention, to quantise, to import a class).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..documents import parse_json, read_document
from ..errors import BaseModelError
from .config_rules import OPTIONAL, PARTS, REQUIRED, SCHEDULER, SCHEDULER_OPTIONAL, TEXT, UNET, VAE, Rule

_SCHEDULER_FILE = "scheduler/scheduler_config.json"

_CLASSES = {
    UNET: ("UNet2DConditionModel",),
    VAE: ("AutoencoderKL",),
    TEXT: ("CLIPTextModel", "CLIPTextModelWithProjection"),
}
_SD_LATENTS = 4  # diffusers has Stable Diffusion's scaling factor for its own
_SHOWN = 60  # characters of a value in a message
_USE = "use a base such as Stable Diffusion 2.1-base"


@dataclass(frozen=True)
class BaseConfigs:
    """parts: what each network is built from, by part. scheduler: the fields of the noise schedule."""

    parts: dict[str, dict[str, Any]]
    scheduler: dict[str, Any]


def read_configs(folder: Path) -> BaseConfigs:
    """The configurations in a diffusers folder, each value possible and all of them together.

    Raises BaseModelError, which names the file, the field and its value.
    """
    parts = {part: _part(folder / part / "config.json", part) for part in PARTS}
    _check_together(folder, parts)
    return BaseConfigs(parts, _scheduler(folder / _SCHEDULER_FILE))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BaseModelError if it is missing or broken."""
    try:
        data = parse_json(read_document(path))
    except OSError as error:
        raise BaseModelError(
            f"The file {path} cannot be read ({error.strerror}); complete the model's folder."
        ) from error
    except ValueError as error:
        raise BaseModelError(f"The file {path} is no usable JSON; complete the model's folder.") from error
    if not isinstance(data, dict):
        raise BaseModelError(f"The file {path} does not hold a JSON object; complete the model's folder.")
    return data


def _part(path: Path, part: str) -> dict[str, Any]:
    config = read_json(path)
    _check_class(path, part, config)
    if config.get("quantization_config"):
        raise BaseModelError(
            f"The {part} of {path} is quantised, which is not read here; use a base in fp16, bf16 or fp32."
        )
    defaults = _defaults(part)
    rules = REQUIRED[part] | OPTIONAL[part]
    _check_fields(path, config, rules, REQUIRED[part])
    for key in config.keys() & defaults.keys() - rules.keys():
        if config[key] != defaults[key]:
            raise BaseModelError(
                f"{path} has {key} {_shown(config[key])}, which is another network than Stable Diffusion's; {_USE}."
            )
    chosen = {key: config[key] for key in rules if key in config}
    _check_levels(path, part, chosen)
    return chosen


def _check_class(path: Path, part: str, config: dict[str, Any]) -> None:
    named = config.get("_class_name") if part != TEXT else (config.get("architectures") or [None])
    found = named[0] if isinstance(named, list) and named else named
    if found is not None and found not in _CLASSES[part]:
        raise BaseModelError(
            f"{path} is of a {_shown(found)}, but OSEDiff needs a {_CLASSES[part][0]}; {_USE}."
        )


def _defaults(part: str) -> dict[str, Any]:
    """The fields of a network of diffusers, with what they are in Stable Diffusion where that does not set them."""
    if part == TEXT:
        return {}
    from diffusers import AutoencoderKL, UNet2DConditionModel

    network = UNet2DConditionModel if part == UNET else AutoencoderKL
    parameters = inspect.signature(network.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check_fields(
    path: Path, config: dict[str, Any], rules: dict[str, Rule], required: Container[str]
) -> None:
    for key, rule in rules.items():
        if key not in config:
            if key in required:
                raise BaseModelError(f"{path} does not say {key}; complete the model's folder.")
        elif not rule.holds(config[key]):
            raise BaseModelError(
                f"{path} has {key} {_shown(config[key])}, which must be {rule.words}; get the file again."
            )


def _check_levels(path: Path, part: str, config: dict[str, Any]) -> None:
    """What the fields of a network must be to each other."""
    if part == TEXT:
        _check_divides(path, "num_attention_heads", config["num_attention_heads"], [config["hidden_size"]])
        return
    widths = config["block_out_channels"]
    for key, value in config.items():
        if isinstance(value, list) and key != "sample_size" and len(value) != len(widths):
            raise BaseModelError(
                f"{path} has {len(value)} {key} for {len(widths)} block_out_channels; get the file again."
            )
    _check_divides(path, "norm_num_groups", config["norm_num_groups"], widths)
    if part == UNET:
        heads = config["attention_head_dim"]  # diffusers' name for the number of heads
        for width, count in zip(
            widths, heads if isinstance(heads, list) else [heads] * len(widths), strict=True
        ):
            _check_divides(path, "attention_head_dim", count, [width])
    elif config["latent_channels"] != _SD_LATENTS and "scaling_factor" not in config:
        raise BaseModelError(f"{path} does not say scaling_factor; complete the model's folder.")


def _check_divides(path: Path, key: str, number: int, widths: list[int]) -> None:
    odd = next((width for width in widths if width % number), None)
    if odd is not None:
        raise BaseModelError(
            f"{path} has {key} {number}, which does not divide its {odd} channels; get the file again."
        )


def _check_together(folder: Path, parts: dict[str, dict[str, Any]]) -> None:
    """What the networks must be to each other."""
    reads, gives = parts[UNET]["cross_attention_dim"], parts[TEXT]["hidden_size"]
    if reads != gives:
        raise BaseModelError(
            f"The parts of {folder} do not belong together: the unet reads prompts of {reads} features, and the text "
            f"encoder gives {gives}; {_USE}."
        )
    channels = parts[UNET]["in_channels"], parts[UNET]["out_channels"], parts[VAE]["latent_channels"]
    if len(set(channels)) > 1:
        raise BaseModelError(
            f"The unet of {folder} goes from {channels[0]} channels to {channels[1]}, and the vae's latents have "
            f"{channels[2]}, but OSEDiff needs one number of them; {_USE}."
        )


def _scheduler(path: Path) -> dict[str, Any]:
    config = read_json(path)
    rules = SCHEDULER | SCHEDULER_OPTIONAL
    by_numbers = config.get("trained_betas") is not None
    _check_fields(path, config, rules, () if by_numbers else SCHEDULER)
    return {key: config[key] for key in rules if key in config}


def _shown(value: object) -> str:
    """A value as JSON has it, cut."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
