"""All settings of a run: one dataclass in sections, from YAML and the command line, saved with every checkpoint.

The defaults are those of the official script (osediff_sd21.yaml spells them out); what it gets wrong is set right and
said so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data.config import DataConfig
from .run.config import STRICT, AdamWConfig, PairsConfig, RunConfig, below_one
from .run.settings import as_yaml, parse_settings, read_settings

__all__ = [
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "ValidationConfig",
    "as_yaml",
    "load_config",
    "parse_config",
]

NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
    "lowres, over-smooth"
)


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
    # UNet and VAE, the decoder included; see docs/training.md for its cost
    gradient_checkpointing: bool = False
    shard_base: bool = False  # split the frozen UNet over the processes, which each gather block by block

    __pydantic_config__ = STRICT


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

    __pydantic_config__ = STRICT


@dataclass
class OptimConfig(AdamWConfig):
    """AdamW for both, each with its own schedule, clip and, in fp16, loss scale."""

    regulariser_learning_rate: float = 5e-5
    conv_in_factor: float = 1.0  # conv_in's own weights learn this much faster than LoRA
    regulariser_steps: int = 1  # updates of the regulariser a step

    __pydantic_config__ = STRICT


@dataclass
class ValidationConfig(PairsConfig):
    """Fixed pairs, restored every so often."""

    distance: str = "efficientnet-lite2"  # reported, never trained on
    prompt: str = ""

    __pydantic_config__ = STRICT


@dataclass
class TrainConfig(RunConfig):
    """A run of the generator and its regulariser."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    prompt_cache: str | None = None  # folder of prompt embeddings; None: in memory only
    export_pkl: bool = True  # write the official format beside .safetensors at the end

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        yield from super().faults()
        yield from self.optim.faults()
        positive = {
            "validation.every": self.validation.every,
            "model.rank_unet": self.model.rank_unet,
            "model.rank_vae": self.model.rank_vae,
            "model.rank_regulariser": self.model.rank_regulariser,
            "optim.regulariser_steps": self.optim.regulariser_steps,
        }
        yield from below_one(positive)
        if self.model.base_dtype != "fp32" and self.precision == "fp32":
            yield (
                f"model.base_dtype {self.model.base_dtype} needs precision bf16 or fp16, as fp32 layers stand between"
            )
        low, high = self.loss.timesteps
        if not 0 <= low <= high <= 999:
            yield f"loss.timesteps {low} to {high} must rise and lie within 0 to 999"


def load_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """As `read_settings`."""
    return read_settings(TrainConfig, path, overrides)


def parse_config(values: dict[str, Any], source: str = "the configuration") -> TrainConfig:
    """As `parse_settings`."""
    return parse_settings(TrainConfig, values, source)
