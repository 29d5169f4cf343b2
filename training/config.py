"""All settings of a run: one dataclass in sections, from YAML and the command line, saved with every checkpoint.

The defaults are those of the official script (osediff_sd21.yaml spells them out); what it gets wrong is set right and
said so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from osediff_core.errors import OptionError
from osediff_core.evaluate.metrics import parse_metrics

from .data.config import DataConfig
from .run.config import STRICT, AdamWConfig, PairsConfig, RunConfig, below_one, below_zero, not_above_zero
from .run.settings import as_yaml, parse_settings, read_settings

__all__ = [
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SpeedConfig",
    "TrainConfig",
    "ValidationConfig",
    "as_yaml",
    "load_config",
    "parse_config",
]

Distance = Literal[
    "lpips-vgg",
    "lpips-alex",
    "dists-vgg",
    "dists-vgg-edges",
    "dists-lite0",
    "dists-lite0-edges",
    "efficientnet-lite0",
    "efficientnet-lite2",
    "none",
]
TERMS = ("l2", "perceptual", "regulariser", "adversarial", "teacher")  # of the generator's loss
TRAINED_REGULARISERS = ("vsd", "vsd-pixel", "gan")  # the others have no weights of their own
NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, "
    "blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, "
    "lowres, over-smooth"
)


@dataclass
class ModelConfig:
    """The base, and what is trained on it."""

    # pisa-sr: two LoRA sets on the UNet, trained one after the other in runs of their own (training/pisa.py)
    method: Literal["osediff", "pisa-sr"] = "osediff"
    stage: Literal["pixel", "semantic"] | None = None  # of pisa-sr

    base: str = "tiny"  # tiny, a diffusers folder, an SD checkpoint; what `osediff upscale --base` takes
    base_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"  # of frozen weights; trained ones are always fp32
    # OSEDiff weights to train further, .pkl or .safetensors, or `base` for those beside the base; of another rank they
    # are reduced to the nearest, or extended
    start_from: str | None = None
    timestep: int | None = None  # T; None: that of start_from, else the schedule's last, 999, or PiSA-SR's 1
    rank_unet: int = 4
    rank_vae: int = 4
    rank_regulariser: int = 4
    lora_init: Literal["gaussian", "fan_in"] = "gaussian"  # fan_in: for high ranks, where 8 / rank is small
    tune_vae: Literal["none", "encoder", "decoder", "both"] = "encoder"
    regulariser: Literal["vsd", "vsd-pixel", "csd", "sds", "sds-dreamfusion", "gan", "none"] = "vsd"
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
    perceptual_kind: Distance = "lpips-vgg"
    perceptual_weights: str | None = None  # file of VGG16 or AlexNet, where torch hub's cache has none
    dists_weights: str | None = None  # file of DISTS's alpha and beta, where dists-pytorch is not installed
    allow_download: bool = False  # of the backbone
    adversarial: float = 0.0  # of the discriminator on images (losses/projected.py)
    # what it looks at: efficientnet-lite0, or the folder of a DINOv2 or DINOv3 model as transformers saves it
    adversarial_features: str = "efficientnet-lite0"
    adversarial_kind: Literal["hinge", "non-saturating"] = "hinge"
    teacher: float = 0.0  # of another model's result as a target (losses/teacher.py)
    teacher_model: str | None = (
        None  # its file, as spandrel reads it; None: the pictures in `targets` of the sources
    )
    # term -> its share of the gradient at the restored latents, such as {regulariser: 0.2}, instead of its weight
    # above (losses/balance.py); measured every so many micro-batches
    shares: dict[str, float] = field(default_factory=dict)
    share_every: int = 10
    guidance: float = 7.5  # classifier-free, of the teacher
    negative_prompt: str = NEGATIVE_PROMPT
    timesteps: tuple[int, int] = (20, 979)  # of the distillation, both included
    sample_posterior: bool = True  # as the official training; inference takes the mode

    __pydantic_config__ = STRICT

    def weight(self, term: str) -> float:
        """The fixed weight of a term; 0 for one that has a share instead."""
        return 0.0 if term in self.shares else getattr(self, term)

    def uses(self, term: str) -> bool:
        """Whether a term has a weight or a share."""
        return term in self.shares or getattr(self, term) > 0

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        names = ("l2", "perceptual", "regulariser", "diffusion", "guidance", "adversarial", "teacher")
        yield from below_zero({f"loss.{name}": getattr(self, name) for name in names})
        yield from below_one({"loss.share_every": self.share_every})
        low, high = self.timesteps
        if not 0 <= low <= high <= 999:
            yield f"loss.timesteps {low} to {high} must rise and lie within 0 to 999"


@dataclass
class OptimConfig(AdamWConfig):
    """AdamW for both, each with its own schedule, clip and, in fp16, loss scale."""

    regulariser_learning_rate: float = 5e-5
    conv_in_factor: float = 1.0  # conv_in's own weights learn this much faster than LoRA
    regulariser_steps: int = 1  # updates of the regulariser a step

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, or has no effect, each as a clause."""
        yield from super().faults()
        yield from below_one({"optim.regulariser_steps": self.regulariser_steps})
        yield from not_above_zero({"optim.regulariser_learning_rate": self.regulariser_learning_rate})
        yield from below_zero({"optim.conv_in_factor": self.conv_in_factor})


@dataclass
class SpeedConfig:
    """Switches that change rounding and time, and nothing else."""

    # the VAE's decoder (unless it is tuned) and the perceptual network, which play one role, through torch.compile
    compile: Literal["none", "inductor", "aot_eager"] = (
        "none"  # aot_eager: without a compiler, to look for faults
    )
    channels_last: bool = False  # convolutions in the layout that tensor cores like
    tf32: bool = False  # fp32 products on NVIDIA's tensor cores, with 10 bits of mantissa

    __pydantic_config__ = STRICT


@dataclass
class ValidationConfig(PairsConfig):
    """Fixed pairs, restored every so often."""

    distance: Distance = "efficientnet-lite2"  # reported, never trained on
    # of every picture; tagger:NAME says it of each LQ picture, as users' prompts are made (data.captions has the names)
    prompt: str = ""
    # of `osediff evaluate`, such as [osediff] for the paper's; those whose package or weights are not here are left out
    metrics: tuple[str, ...] = ()

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, each as a clause."""
        yield from super().faults()
        try:
            parse_metrics(self.metrics or ("psnr",))
        except OptionError as error:
            yield f"validation.metrics: {str(error).removesuffix('.')}"


@dataclass(kw_only=True)
class TrainConfig(RunConfig):
    """A run of the generator and its regulariser."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    prompt_cache: str | None = None  # folder of prompt embeddings; None: in memory only
    export_pkl: bool = True  # write the official format beside .safetensors at the end
    # programs for which the UNet's LoRA is written at the end, with the whole VAE: lora_diffusers.safetensors, vae/
    export_lora: tuple[Literal["diffusers", "comfyui"], ...] = ()
    push_to_hub: str | None = None  # owner/name: upload the results at the end (training/publish.py)

    __pydantic_config__ = STRICT

    def faults(self) -> Iterator[str]:
        """What cannot work, or has no effect, each as a clause."""
        yield from super().faults()
        for section in (self.optim, self.loss, self.validation):
            yield from section.faults()
        model, loss = self.model, self.loss
        ranks = ("rank_unet", "rank_vae", "rank_regulariser")
        yield from below_one({f"model.{name}": getattr(model, name) for name in ranks})
        untrained = model.regulariser not in TRAINED_REGULARISERS
        further_steps = self.optim.regulariser_steps > 1 and not loss.uses("adversarial")
        if untrained and (model.official or further_steps):
            name = "model.official" if model.official else "optim.regulariser_steps"
            yield f"{name} has no effect with model.regulariser {model.regulariser}, which trains nothing of its own"
        yield from self._faults_of_method()
        off = {"perceptual": loss.perceptual_kind == "none", "regulariser": model.regulariser == "none"}
        used = [name for name in TERMS if loss.uses(name) and not off.get(name)]
        if not used:
            yield "loss.l2, loss.perceptual and loss.regulariser are all 0 or off, so there is nothing to learn"
        yield from self._faults_of_shares(used)
        if loss.uses("teacher") and not loss.teacher_model and not any(s.targets for s in self.data.sources):
            yield "loss.teacher needs loss.teacher_model, or targets in data.sources"
        if self.model.base_dtype != "fp32" and self.precision == "fp32":
            yield (
                f"model.base_dtype {self.model.base_dtype} needs precision bf16 or fp16, as fp32 layers stand between"
            )

    def _faults_of_method(self) -> Iterator[str]:
        model = self.model
        if model.method == "osediff":
            if model.stage:
                yield f"model.stage {model.stage} is of model.method pisa-sr"
            return
        if model.stage is None:
            yield "model.method pisa-sr needs model.stage: pixel first, then semantic"
        if model.stage == "semantic" and model.start_from is None:
            yield "model.stage semantic needs model.start_from, the weights of the pixel stage"
        if model.tune_vae != "none":
            yield f"model.tune_vae {model.tune_vae} does not go with model.method pisa-sr, whose file holds no VAE"

    def _faults_of_shares(self, used: list[str]) -> Iterator[str]:
        shares = self.loss.shares
        for name, share in shares.items():
            if name not in used:
                why = "is off" if name in TERMS else f"is no term of the loss (those are {', '.join(TERMS)})"
                yield f"loss.shares has {name}, which {why}"
            if not 0 < share < 1:
                yield f"loss.shares.{name} is {share:g}, but a share lies between 0 and 1"
        if sum(shares.values()) >= 1:
            yield f"loss.shares add up to {sum(shares.values()):g}, but must leave something to the other terms"
        if shares and not any(self.loss.weight(name) for name in used):
            yield "loss.shares has all terms, but one must keep its weight for the others to be measured by"


def load_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """As `read_settings`."""
    return read_settings(TrainConfig, path, overrides)


def parse_config(values: dict[str, Any], source: str = "the configuration") -> TrainConfig:
    """As `parse_settings`."""
    return parse_settings(TrainConfig, values, source)
