"""All settings of a run that adapts a tagger to degraded pictures, as SeeSR made DAPE of RAM.

The defaults are SeeSR's (basicsr/options/dape.yaml; training/configs/dape_seesr.yaml spells them out).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..data.config import DataConfig
from ..run.config import STRICT, AdamWConfig, PairsConfig, RunConfig, below_one, below_zero

__all__ = ["DapeConfig", "DapeLossConfig", "DapeModelConfig", "DapeValidationConfig", "DataConfig"]


@dataclass
class DapeModelConfig:
    """The tagger that is adapted; with its adapters off it is the teacher."""

    tagger: str = "ram_swin_large_14m.pth"  # or a tagger's .safetensors, or tiny, the embedded one
    start_from: str | None = None  # DAPE.pth to train further
    rank: int = 8  # of LoRA; what it adds is scaled by 1 / rank (lora_alpha 1)
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the frozen weights; LoRA is always fp32
    train_mode: bool = True  # the student's dropout and drop path act, as in SeeSR

    __pydantic_config__ = STRICT


@dataclass
class DapeLossConfig:
    """Weights of the two distances between student and teacher."""

    features: float = 1.0  # mean squared error of the image embeddings
    logits: float = 1.0  # binary cross-entropy against the teacher's probabilities

    __pydantic_config__ = STRICT


@dataclass
class DapeOptimConfig(AdamWConfig):
    """SeeSR's: no decay, no clipping, half the rate from step 20,000 on, a quarter from 30,000."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "multistep"] = "multistep"
    warmup: int = 50
    milestones: tuple[int, ...] = (20_000, 30_000)

    __pydantic_config__ = STRICT


@dataclass
class DapeValidationConfig(PairsConfig):
    """Fixed pairs, tagged every so often; the teacher's tags of the good picture are what should be found."""

    every: int = 1000
    limit: int = 32
    preset: str = "realesrgan"

    __pydantic_config__ = STRICT


@dataclass(kw_only=True)
class DapeConfig(RunConfig):
    """A run of DAPE's training."""

    steps: int = 300_000  # SeeSR's upper limit
    batch: int = 8
    seed: int = 10
    save_every: int = 1000
    model: DapeModelConfig = field(default_factory=DapeModelConfig)
    loss: DapeLossConfig = field(default_factory=DapeLossConfig)
    optim: DapeOptimConfig = field(default_factory=DapeOptimConfig)
    validation: DapeValidationConfig = field(default_factory=DapeValidationConfig)
    # also write the tagger with its LoRA, in one file
    export_tagger: Literal["none", "fp32", "bf16", "fp16"] = "none"

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        yield from super().faults()
        yield from self.optim.faults()
        yield from self.validation.faults()
        yield from below_one({"model.rank": self.model.rank})
        yield from below_zero({"loss.features": self.loss.features, "loss.logits": self.loss.logits})
        if self.model.dtype != "fp32" and self.precision == "fp32":
            yield f"model.dtype {self.model.dtype} needs precision bf16 or fp16, as LoRA is fp32"
        if self.loss.features == self.loss.logits == 0:
            yield "loss.features and loss.logits are both 0, so there is nothing to learn; give one a weight"
