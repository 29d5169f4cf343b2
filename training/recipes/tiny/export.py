"""Write the trained parts as the package ships them: a base folder in diffusers layout and one OSEDiff weights file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from .architecture import SCHEDULER_CONFIG

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

Module = TypeVar("Module", bound=nn.Module)

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def round_to_half(module: Module) -> Module:
    """Round all weights to fp16 values (kept as fp32), so that later stages train on exactly what is shipped."""
    return module.half().float()


def export_base(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: Path, folder: Path
) -> None:
    """Write the base as fp16 safetensors to `folder` in diffusers layout; `tokenizer` is a folder to copy."""
    for name, module in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
        module.half().save_pretrained(folder / name, safe_serialization=True)
        module.float()
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    for path in tokenizer.iterdir():
        (folder / "tokenizer" / path.name).write_bytes(path.read_bytes())
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG, indent=2) + "\n")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
