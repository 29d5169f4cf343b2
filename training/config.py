"""All settings of a run: one dataclass in sections, from YAML and the command line, saved with every checkpoint.

The defaults are those of the official script (osediff_sd21.yaml spells them out); what it gets wrong is set right and
said so.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from osediff_core.errors import OptionError, first_line

from .data.config import DataConfig

NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
    "lowres, over-smooth"
)
_STRICT = ConfigDict(extra="forbid")


@dataclass
class ModelConfig:
    """The base, and what is trained on it."""

    base: str = "tiny"  # tiny, a diffusers folder, an SD checkpoint; what `osediff upscale --base` takes
    base_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"  # of frozen weights; trained ones are always fp32
    start_from: str | None = None  # OSEDiff weights to train further, .pkl or .safetensors
    timestep: int | None = None  # T; None: that of start_from, else the schedule's last, 999
    rank_unet: int = 4
    rank_vae: int = 4
    rank_regulariser: int = 4
    lora_init: Literal["gaussian", "fan_in"] = "gaussian"  # fan_in: for high ranks, where 8 / rank is small
    tune_vae: Literal["none", "encoder", "decoder", "both"] = "encoder"
    regulariser: Literal["vsd", "vsd-pixel", "csd", "sds", "gan", "none"] = "vsd"
    # mid: only the mid block of the regulariser acts and learns, as in the released script (peft leaves the adapter
    # that was added last active); None: all of it, which the paper describes
    official: Literal["mid"] | None = None
    gradient_checkpointing: bool = (
        False  # UNet and VAE, the decoder included; see docs/training.md for its cost
    )
    shard_base: bool = False  # split the frozen UNet over the processes, which each gather block by block

    __pydantic_config__ = _STRICT


@dataclass
class LossConfig:
    """Weights of the losses (design: MSE + lambda_1 perceptual + lambda_2 distillation)."""

    l2: float = 1.0
    perceptual: float = 2.0
    regulariser: float = 1.0
    diffusion: float = 1.0  # of the regulariser's own loss
    perceptual_kind: str = "lpips-vgg"  # lpips-vgg, lpips-alex, efficientnet-lite0, none
    perceptual_weights: str | None = None  # file of the LPIPS backbone, where torch hub's cache has none
    allow_download: bool = False  # of that backbone
    guidance: float = 7.5  # classifier-free, of the teacher
    negative_prompt: str = NEGATIVE_PROMPT
    timesteps: tuple[int, int] = (20, 979)  # of the distillation, both included
    sample_posterior: bool = True  # as the official training; inference takes the mode

    __pydantic_config__ = _STRICT


@dataclass
class OptimConfig:
    """AdamW for both, each with its own schedule, clip and, in fp16, loss scale."""

    learning_rate: float = 5e-5
    regulariser_learning_rate: float = 5e-5
    conv_in_factor: float = 1.0  # conv_in's own weights learn this much faster than LoRA
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    eps: float = 1e-8
    clip: float = 1.0  # total gradient norm
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    warmup: int = 0  # steps
    accumulate: int = 1  # micro-batches a step
    regulariser_steps: int = 1  # updates of the regulariser a step
    ema: float = 0.0  # decay of the generator's average, 0: none

    __pydantic_config__ = _STRICT


@dataclass
class ValidationConfig:
    """Fixed pairs, restored every so often."""

    path: str | None = None  # folder of pictures, or of LR/ and HR/; None: no validation
    every: int = 500  # steps
    limit: int = 16  # pictures
    size: int = 512  # px, centre crop
    distance: str = "efficientnet-lite2"  # reported, never trained on
    preset: str = "light"  # how pictures without an LR/ partner are degraded, always in the same way
    prompt: str = ""

    __pydantic_config__ = _STRICT


@dataclass
class TrainConfig:
    """A run."""

    output: str  # folder of the run; one that holds another run is never overwritten
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    steps: int = 100_000
    batch: int = 4  # samples a process and micro-batch
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # autocast; bf16 needs no loss scale
    seed: int = 123
    resume: str | None = None  # latest, or a checkpoint's folder
    save_every: int = 500  # steps
    keep: int = 3  # checkpoints, beside the best one
    log_every: int = 10  # steps
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    prompt_cache: str | None = None  # folder of prompt embeddings; None: in memory only
    device: str = "auto"
    export_pkl: bool = True  # write the official format beside .safetensors at the end

    __pydantic_config__ = _STRICT


def load_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file and apply "section.key=value" overrides, whose values are YAML too.

    Raises OptionError: no such file, no YAML, an unknown key (with the nearest known one), a value of a wrong kind.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise OptionError(
            f"The configuration {path} cannot be read ({error.strerror}); give a YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"The configuration {path} is no YAML ({first_line(error)}); mend it.") from error
    if not isinstance(values, dict):
        raise OptionError(
            f"The configuration {path} must hold keys and values, such as `output: runs/first`."
        )
    for override in overrides or []:
        _override(values, override)
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], source: str = "the configuration") -> TrainConfig:
    """Check `values` and make them a TrainConfig. Raises OptionError as `load_config`."""
    try:
        config = TypeAdapter(TrainConfig).validate_python(values)
    except ValidationError as error:
        raise OptionError(f"{source}: {_first_fault(error, values)}.") from error
    _check(config, source)
    return config


def as_yaml(config: TrainConfig) -> str:
    """The whole configuration, defaults included, as `load_config` reads it."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise OptionError(
            f"{override!r} is no setting; write section.key=value, for example optim.learning_rate=1e-5."
        )
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise OptionError(f"{key!r} is no key of the configuration, as {section!r} is a single value.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(
            f"The value of {key} is no YAML ({first_line(error)}); put it in quotes."
        ) from error


def _first_fault(error: ValidationError, values: dict[str, Any]) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{where} is missing; add it"
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        nearest = difflib.get_close_matches(where, _known_keys(), n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else "see training/config.py for what there is"
        return f"{where} is no setting; {hint}".rstrip("?") + ("?" if nearest else "")
    return f"{where} is {fault['input']!r}, but {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _known_keys() -> list[str]:
    schema = TypeAdapter(TrainConfig).json_schema()
    keys = []
    for name, entry in schema["properties"].items():
        reference = entry.get("$ref", "").rsplit("/", 1)[-1]
        inner = schema["$defs"].get(reference, {}).get("properties", {})
        keys += [name, *(f"{name}.{key}" for key in inner)]
    return keys


def _check(config: TrainConfig, source: str) -> None:
    optim, model = config.optim, config.model
    positive = {
        "steps": config.steps,
        "batch": config.batch,
        "save_every": config.save_every,
        "keep": config.keep,
        "log_every": config.log_every,
        "validation.every": config.validation.every,
        "model.rank_unet": model.rank_unet,
        "model.rank_vae": model.rank_vae,
        "model.rank_regulariser": model.rank_regulariser,
        "optim.accumulate": optim.accumulate,
        "optim.regulariser_steps": optim.regulariser_steps,
    }
    for name, value in positive.items():
        if value < 1:
            raise OptionError(f"{source}: {name} is {value}, but must be 1 or more.")
    if model.base_dtype != "fp32" and config.precision == "fp32":
        raise OptionError(
            f"{source}: model.base_dtype {model.base_dtype} needs precision bf16 or fp16, as fp32 layers stand between."
        )
    if not 0 <= optim.ema < 1:
        raise OptionError(f"{source}: optim.ema is {optim.ema}, but must be at least 0 and below 1.")
    low, high = config.loss.timesteps
    if not 0 <= low <= high <= 999:
        raise OptionError(f"{source}: loss.timesteps {low} to {high} must rise and lie within 0 to 999.")


def _plain(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Tuples as lists: safe YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
