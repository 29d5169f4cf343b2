"""Which model a file holds, from its tensors' names and shapes (never from its file name)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .tensor_file import container_of, load_torch, read_one_tensor, safetensors_header, shapes_of, tensor_dict

_AS_WEIGHTS = "pass it as the weights, beside a base"
_AS_BASE = "pass it as the base, and OSEDiff weights as the weights"
_WRONG_BASE = "use OSEDiff weights (.pkl or .safetensors) on a Stable Diffusion 2.1-base model instead"
_GIVE_WEIGHTS = "give OSEDiff weights (.pkl or .safetensors)"
_UNET = "model.diffusion_model."
# The last self-attention's norm tells SD 2.x's two trainings apart: its bias spreads wider in v-prediction models
# (ComfyUI's test and threshold, comfy/supported_models.py).
_V_PROBE = _UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_PREDICTION_SPREAD = 0.09

TAGGER_FORMAT = "osediff-tagger"  # in the metadata of a tagger's .safetensors

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Identity:
    """What a file is.

    `kind`: osediff | sd_checkpoint | diffusers_folder | diffusers_model | text_encoder | tagger | dape | ram | lora |
    related_one_step | upscaler | unknown. `what` is a noun phrase and `use` a clause of advice, both for
    messages: f"{path} is {what}; {use}.". `details` holds facts of the kind, e.g. {"family": "sd2",
    "prediction_type": ...}.
    """

    kind: str
    what: str
    use: str
    container: str
    details: dict[str, Any] = field(default_factory=dict)


def identify(path: str | Path) -> Identity:
    """What the file or folder at `path` is; tensors' data stay on the disk.

    Raises CheckpointError if it is missing, empty, damaged, not a file of tensors, or holds code.
    """
    path = Path(path)
    if path.is_dir():
        return _identify_folder(path)
    container = container_of(path)
    if container == "safetensors":
        shapes, _, metadata = safetensors_header(path)
        return identify_tensors(shapes, container, metadata, lambda name: read_one_tensor(path, name))
    return identify_content(load_torch(path, mmap=container == "torch-zip"), container)


def identify_content(content: object, container: str) -> Identity:
    """What an object read by torch.load is; `container` is "torch-zip" or "torch-legacy"."""
    if is_official(content):
        return Identity("osediff", "OSEDiff weights in the official format", _AS_WEIGHTS, container)
    if isinstance(content, Mapping) and "state_dict_unet" in content:
        what = "a checkpoint of a related one-step project (without OSEDiff's lists of modules)"
        return Identity("related_one_step", what, _GIVE_WEIGHTS, container)
    tensors = tensor_dict(content)
    return identify_tensors(shapes_of(tensors), container, {}, tensors.__getitem__)


def is_official(content: object) -> bool:
    """Whether an object read by torch.load has the top-level keys of an official OSEDiff checkpoint."""
    return isinstance(content, Mapping) and OFFICIAL_KEYS <= set(content)


OFFICIAL_LISTS = {
    "encoder": "unet_lora_encoder_modules",
    "decoder": "unet_lora_decoder_modules",
    "others": "unet_lora_others_modules",
}
OFFICIAL_VAE_LIST = "vae_lora_encoder_modules"
OFFICIAL_KEYS = frozenset(
    {
        OFFICIAL_VAE_LIST,
        *OFFICIAL_LISTS.values(),
        "rank_unet",
        "rank_vae",
        "state_dict_unet",
        "state_dict_vae",
    }
)


def identify_tensors(
    shapes: Shapes, container: str, metadata: Mapping[str, str], tensor: Callable[[str], Tensor]
) -> Identity:
    """What a flat set of named tensors is; `tensor(name)` reads one of them when its values are needed."""
    if metadata.get("format") == "osediff":
        return Identity("osediff", "OSEDiff weights", _AS_WEIGHTS, container)
    if metadata.get("format") == TAGGER_FORMAT:
        details = {"dape": metadata.get("dape", "none")}
        return Identity("tagger", "a tagger", "pass it as the tagger, not as the weights", container, details)
    for recognise in (_sd_checkpoint, _tagger, _lora, _parts):
        found = recognise(shapes, tensor)
        if found is not None:
            kind, what, use, details = found
            return Identity(kind, what, use, container, details)
    what = "a file without tensors" if not shapes else "an unknown kind of model"
    return Identity("unknown", what, _GIVE_WEIGHTS, container)


_Found = tuple[str, str, str, dict[str, Any]] | None


def _sd_checkpoint(shapes: Shapes, tensor: Callable[[str], Tensor]) -> _Found:
    """Single-file checkpoints in CompVis' naming."""
    first = shapes.get(_UNET + "input_blocks.0.0.weight")
    if first is None:
        if any(name.startswith(_UNET) for name in shapes):
            what = "a checkpoint of another diffusion model (not a Stable Diffusion UNet)"
            return "sd_checkpoint", what, _WRONG_BASE, {"family": "other"}
        return None
    context = {s[1] for n, s in shapes.items() if n.startswith(_UNET) and n.endswith("attn2.to_k.weight")}
    details: dict[str, Any] = {"in_channels": first[1], "context_dim": max(context, default=None)}
    refiner = 1280 in context
    if refiner or 2048 in context:
        name = "SDXL refiner" if refiner else "SDXL"
        return "sd_checkpoint", f"an {name} checkpoint", _WRONG_BASE, {"family": "sdxl", **details}
    special = {4: "", 7: " depth-to-image", 9: " inpainting"}.get(first[1], f" {first[1]}-channel")
    if 1024 in context:
        details["prediction_type"] = _sd2_prediction(shapes, first, tensor)
        v_prediction = details["prediction_type"] == "v_prediction"
        training = " v-prediction" if v_prediction else ""
        what = f"a Stable Diffusion 2.x{special}{training} checkpoint"
        good = not special and not v_prediction
        return "sd_checkpoint", what, _AS_BASE if good else _WRONG_BASE, {"family": "sd2", **details}
    if 768 in context:
        return (
            "sd_checkpoint",
            f"a Stable Diffusion 1.x{special} checkpoint",
            _WRONG_BASE,
            {"family": "sd1", **details},
        )
    return (
        "sd_checkpoint",
        "a Stable Diffusion checkpoint of an unknown size",
        _AS_BASE,
        {"family": "other", **details},
    )


def _sd2_prediction(shapes: Shapes, first: tuple[int, ...], tensor: Callable[[str], Tensor]) -> str:
    if first[1] != 4 or _V_PROBE not in shapes:
        return "epsilon"
    return "v_prediction" if tensor(_V_PROBE).float().std(unbiased=False) > V_PREDICTION_SPREAD else "epsilon"


def _tagger(shapes: Shapes, tensor: Callable[[str], Tensor]) -> _Found:
    """RAM (Recognize Anything) and DAPE, the LoRA that adapts RAM to degraded pictures."""
    if shapes and all("lora_" in name for name in shapes) and _starts(shapes, "visual_encoder.layers."):
        return "dape", "DAPE, the prompt extractor's LoRA", "pass it as DAPE, not as the weights", {}
    if "visual_encoder.patch_embed.proj.weight" in shapes and "label_embed" in shapes:
        tags = shapes["label_embed"][0]
        if tags != 4585:
            return (
                "ram",
                "a RAM++ or other RAM-like tagger",
                "the tagger needs ram_swin_large_14m",
                {"labels": tags},
            )
        return "ram", "the RAM tagger", "pass it as RAM, not as the weights", {"labels": tags}
    return None


def _lora(shapes: Shapes, tensor: Callable[[str], Tensor]) -> _Found:
    """Adapters of other tools: kohya / ComfyUI / diffusers / peft."""
    ends = (
        ".lora_down.weight",
        ".lora.down.weight",
        ".lora_A.weight",
        ".lora_A.default.weight",
        ".hada_w1_a",
        ".lokr_w1",
    )
    if not any(name.endswith(ends) for name in shapes):
        return None
    kohya = _starts(shapes, "lora_unet_") or _starts(shapes, "lora_te")
    style = "kohya" if kohya else "diffusers or ComfyUI"
    use = "OSEDiff needs its own weights; such a LoRA belongs on a text-to-image model"
    return "lora", f"a LoRA in the {style} format", use, {"style": style}


def _parts(shapes: Shapes, tensor: Callable[[str], Tensor]) -> _Found:
    """One part of a pipeline, or a net of another trade."""
    part = "pass the folder of the whole model as the base"
    if "conv_in.weight" in shapes and _starts(shapes, "down_blocks."):
        return "diffusers_model", "a UNet in the diffusers format", part, {"part": "unet"}
    if "encoder.conv_in.weight" in shapes and "decoder.conv_in.weight" in shapes:
        return "diffusers_model", "a VAE", part, {"part": "vae"}
    if any(name.endswith("embeddings.token_embedding.weight") for name in shapes):
        return "text_encoder", "a CLIP text encoder", part, {"part": "text_encoder"}
    if "conv_first.weight" in shapes or "model.0.weight" in shapes:
        return "upscaler", "an upscaler network such as ESRGAN", _GIVE_WEIGHTS, {}
    return None


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _identify_folder(path: Path) -> Identity:
    index = path / "model_index.json"
    if not index.is_file() and not (path / "unet" / "config.json").is_file():
        return Identity(
            "unknown", "a folder without a model_index.json", "give a file or a diffusers folder", "folder"
        )
    details: dict[str, Any] = {}
    for part, file in (
        ("pipeline", "model_index.json"),
        ("unet", "unet/config.json"),
        ("vae", "vae/config.json"),
        ("scheduler", "scheduler/scheduler_config.json"),
    ):
        try:
            config = json.loads((path / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # what is missing or broken is for the base's loader to report
        if isinstance(config, dict):
            details[part] = config.get("_class_name")
            if part == "scheduler":
                details["prediction_type"] = config.get("prediction_type", "epsilon")
            if part == "unet":
                details["context_dim"] = config.get("cross_attention_dim")
    what = "a diffusers model folder"
    if details.get("prediction_type") == "v_prediction":
        what += " of a v-prediction model"
    return Identity("diffusers_folder", what, _AS_BASE, "folder", details)
