"""OMGSR-S's folder: the UNet's and the VAE encoder's LoRA as two folders of peft's."""

from __future__ import annotations

import json
from typing import Any

from ...errors import CheckpointError
from ...method import Method
from ..one_step_weights import LoRASet, OneStepWeights, common_rank
from ..tensor_file import TensorFile
from . import peft_names
from .format import Format

METHOD = "omgsr-s"
_UNET, _VAE = "unet_lora_adapter", "vae_encoder_lora_adapter"


def recognise(file: TensorFile) -> bool:
    """By the two folders' names."""
    return file.container == "folder" and {name.partition("/")[0] for name in file.shapes} >= {_UNET, _VAE}


def read(file: TensorFile) -> OneStepWeights:
    """The weights; each half's scale is its config's alpha / r."""
    unet, unet_missing, unet_unexpected = _half(file, _UNET, "")
    vae, vae_missing, vae_unexpected = _half(file, _VAE, "encoder.")  # named from the encoder on
    strange = [name for name in file.shapes if not name.startswith((f"{_UNET}/", f"{_VAE}/"))]
    return OneStepWeights(
        METHOD,
        (unet,),
        vae,
        metadata={"timestep": "273", "prediction_type": "epsilon", "base": ABOUT.base},
        source=str(file.path),
        missing=[f"unet {n}" for n in unet_missing] + [f"vae {n}" for n in vae_missing],
        unexpected=[f"unet {n}" for n in unet_unexpected] + [f"vae {n}" for n in vae_unexpected] + strange,
    )


def _half(file: TensorFile, folder: str, lead: str) -> tuple[LoRASet, list[str], list[str]]:
    own = {n.removeprefix(f"{folder}/"): t for n, t in file.tensors().items() if n.startswith(f"{folder}/")}
    pairs, missing, unexpected = peft_names.pairs_of(own, lead)
    config = _config(file, folder)
    rank, alpha = (config.get(key) for key in ("r", "lora_alpha"))
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise CheckpointError(
            f"{file.path}/{folder}/adapter_config.json has no whole r and no lora_alpha; download it again."
        )
    other = [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if other or config.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(
            f"{file.path}/{folder} is no plain LoRA ({', '.join(other) or config['peft_type']}), which OMGSR-S's "
            "is; give the published folder."
        )
    if common_rank(pairs) is None:
        raise CheckpointError(f"{file.path}/{folder} holds no LoRA; download it again.")
    return LoRASet(pairs, rank=rank, scale=alpha / rank), missing, unexpected


def _config(file: TensorFile, folder: str) -> dict[str, Any]:
    try:
        config = json.loads(file.metadata[f"{folder}/adapter_config.json"])
    except (KeyError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{file.path}/{folder}/adapter_config.json is missing or no JSON; download the folder again."
        )
    return config


ABOUT = Method(
    title="OMGSR-S",
    base="stable-diffusion-2-1-base",
    prompt="empty, as it was trained",
    reads_words=False,
    licence="none given by its authors",
    source="https://github.com/wuer5/OMGSR",
    advice="Weights of August 2025 are for SD-Turbo instead, which their folder does not say.",
)
FORMAT = Format(METHOD, "OMGSR-S weights", recognise, read, about=ABOUT)
