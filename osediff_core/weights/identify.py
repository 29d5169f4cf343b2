"""The identity of a file or folder: which model it holds, by names, shapes and metadata, never by its file name."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..documents import parse_json, read_document
from .decoder_file import decoder_kind
from .formats import format_of, one_step_safetensors, peft_names, resembled, s3diff
from .other_methods import other_method
from .other_models import other_model
from .tensor_file import ADAPTER, TensorFile, has_adapters

_AS_WEIGHTS = "pass it as the weights, beside a base"
_ALONE = "pass it as the weights, with its decoder and without a base"
_AS_BASE = "pass it as the base, and OSEDiff weights as the weights"
_WRONG_BASE = "use OSEDiff weights (.pkl or .safetensors) on a Stable Diffusion 2.1-base model instead"
_GIVE_WEIGHTS = "give OSEDiff weights (.pkl or .safetensors)"
_AS_UPSCALER = (
    "pass it as the weights, without a base (osediff upscale, osediff compare); in a graph use ComfyUI's Load Upscale "
    "Model"
)
_UNET = "model.diffusion_model."
# The last self-attention's norm tells SD 2.x's two trainings apart: its bias spreads wider in v-prediction models
# (ComfyUI's test and threshold, comfy/supported_models.py). By CompVis' name and by diffusers'.
_V_SIGNS = (
    _UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
_V_SPREAD = 0.09
_OTHER_MODELS = {  # by the first parts of their tensors' names
    "Stable Diffusion 3": {"joint_blocks", "x_embedder"},
    "FLUX": {"double_blocks", "single_blocks", "img_in"},
    "Qwen-Image": {"transformer_blocks", "img_in", "txt_in"},
    "diffusion transformer's": {"transformer_blocks", "proj_out"},
    "Stable Cascade": {"down_blocks", "clip_txt_mapper"},
    "PixArt": {"blocks", "x_embedder", "y_embedder"},
}

TAGGER_FORMAT = "osediff-tagger"  # in the metadata of a tagger's .safetensors


@dataclass(frozen=True)
class Identity:
    """Identity of a file.

    `kind`: a method's name (osediff, pisa-sr, …) for its weights, also where it does not run here, or unet_lora |
    vae_lora | sd_checkpoint | diffusers_folder | diffusers_model | text_encoder | tagger | dape | ram | lora |
    light_decoder | estimator | related_one_step | upscaler | other_model | unknown. `what` is a noun phrase and `use`
    a clause of advice, both for messages: f"{path} is {what}; {use}.". `details` holds facts of the kind, e.g.
    {"family": "sd2", "prediction_type": ...}. `is_weights`: whether these are weights of a one-step method.
    """

    kind: str
    what: str
    use: str
    container: str
    details: dict[str, Any] = field(default_factory=dict)
    is_weights: bool = False


def identify(path: str | Path) -> Identity:
    """The identity of the file or folder at `path`; tensors' data stay on the disk.

    Raises CheckpointError if it is missing, empty, damaged, not a file of tensors, or holds code.
    """
    path = Path(path)
    if os.path.isdir(path) and not has_adapters(path):
        return _identify_folder(path)
    return identify_file(TensorFile.open(path))


def identify_file(file: TensorFile) -> Identity:
    """The identity of an opened file."""
    known = format_of(file)
    if known is not None:
        use = _ALONE if known.about.base == "none" else _AS_WEIGHTS
        return Identity(known.method, known.what, use, file.container, is_weights=True)
    for recognise in (
        _of_later,
        _other_method,
        _related,
        _sd_checkpoint,
        _tagger,
        _piece,
        _peft_dump,
        _lora,
        _estimator,
        _decoder,
        _parts,
        _other_model,
    ):
        found = recognise(file)
        if found is not None:
            kind, what, use, details = found
            return Identity(kind, what, use, file.container, details)
    what = "an unknown kind of model" if file.shapes else "a file without tensors"
    return Identity("unknown", what, _GIVE_WEIGHTS, file.container)


_Found = tuple[str, str, str, dict[str, Any]] | None


def _of_later(file: TensorFile) -> _Found:
    """A file of ours of a method that this version does not know."""
    if not one_step_safetensors.is_ours(file):
        return None
    method = file.metadata.get("method", "without a name")
    return (
        "unknown",
        f"weights of the one-step method {method!r:.40}",
        "update this program, which does not know it",
        {},
    )


def _other_method(file: TensorFile) -> _Found:
    """Weights of a one-step method that does not run here."""
    found = other_method(file)
    return None if found is None else (found.kind, found.what, found.use, found.details)


def _related(file: TensorFile) -> _Found:
    """Weights of a project that saves as OSEDiff does."""
    if not isinstance(file.content, Mapping) or "state_dict_unet" not in file.content:
        return None
    what = "a checkpoint of a related one-step project (without OSEDiff's lists of modules)"
    return "related_one_step", what, _GIVE_WEIGHTS, {}


def _sd_checkpoint(file: TensorFile) -> _Found:
    """Single-file checkpoints in CompVis' naming."""
    shapes = file.shapes
    first = shapes.get(_UNET + "input_blocks.0.0.weight", ())
    if len(first) != 4:
        return _other_diffusion(shapes)
    context = {
        shape[1]
        for name, shape in shapes.items()
        if name.startswith(_UNET) and name.endswith("attn2.to_k.weight") and len(shape) == 2
    }
    details: dict[str, Any] = {"in_channels": first[1], "context_dim": max(context, default=None)}
    special = {4: "", 7: " depth-to-image", 9: " inpainting"}.get(first[1], f" {first[1]}-channel")
    what, use, family = "a Stable Diffusion checkpoint of an unknown size", _AS_BASE, "other"
    if 1280 in context:
        what, use, family = "an SDXL refiner checkpoint", _WRONG_BASE, "sdxl"
    elif 2048 in context:
        what, use, family = "an SDXL checkpoint", _WRONG_BASE, "sdxl"
    elif 1024 in context:
        v_prediction = not special and is_v_prediction(shapes, file.tensor)
        details["prediction_type"] = "v_prediction" if v_prediction else "epsilon"
        training = " v-prediction" if v_prediction else ""
        what, family = f"a Stable Diffusion 2.x{special}{training} checkpoint", "sd2"
        use = _WRONG_BASE if special or v_prediction else _AS_BASE
    elif 768 in context:
        what, use, family = f"a Stable Diffusion 1.x{special} checkpoint", _WRONG_BASE, "sd1"
    return "sd_checkpoint", what, use, {"family": family, **details}


def _other_diffusion(names: Iterable[str]) -> _Found:
    """Models of other architectures, in files of the same kind."""
    parts = {name.removeprefix(_UNET).partition(".")[0] for name in names}
    known = next((what for what, signs in _OTHER_MODELS.items() if signs <= parts), None)
    if known is None and not _starts(names, _UNET):
        return None
    what = (
        f"a {known} checkpoint"
        if known
        else "a checkpoint of another diffusion model (not a Stable Diffusion UNet)"
    )
    return "sd_checkpoint", what, _WRONG_BASE, {"family": "other"}


def is_v_prediction(names: Container[str], tensor: Callable[[str], Tensor]) -> bool:
    """Whether the UNet of an SD 2.x model shows that it was trained for v-prediction; `tensor(name)` reads one."""
    sign = next((name for name in _V_SIGNS if name in names), None)
    return sign is not None and float(tensor(sign).float().std(unbiased=False)) > _V_SPREAD


def _tagger(file: TensorFile) -> _Found:
    """A tagger of ours, RAM (Recognize Anything), and DAPE, the LoRA that adapts RAM to degraded pictures."""
    shapes = file.shapes
    if file.metadata.get("format") == TAGGER_FORMAT:
        details = {"dape": file.metadata.get("dape", "none")}
        return "tagger", "a tagger", "pass it as the tagger, not as the weights", details
    if shapes and all("lora_" in name for name in shapes) and _starts(shapes, "visual_encoder.layers."):
        return "dape", "DAPE, the prompt extractor's LoRA", "pass it as DAPE, not as the weights", {}
    if "visual_encoder.patch_embed.proj.weight" in shapes and "label_embed" in shapes:
        details = {"labels": next(iter(shapes["label_embed"]), 0)}
        if details["labels"] != 4585:
            return "ram", "a RAM++ or other RAM-like tagger", "the tagger needs ram_swin_large_14m", details
        return "ram", "the RAM tagger", "pass it as RAM, not as the weights", details
    return None


def _peft_dump(file: TensorFile) -> _Found:
    """LoRA as one-step methods save theirs, without a word of which it is."""
    possible = [known.method for known in resembled(file)]
    if possible:
        what = f"a LoRA of a diffusion UNet, as {' and '.join(possible)} and others save it"
        names = " or ".join(f"--method {name}" for name in possible)
        use = f"say that it is of that method, if you know it ({names}; in a graph the input method)"
        return "unet_lora", what, use, {"methods": possible}
    if peft_names.is_unet(file):
        use = "OMGSR-S needs the folder that holds unet_lora_adapter and vae_encoder_lora_adapter"
        return "unet_lora", "a LoRA of a diffusion UNet, probably one half of a method's weights", use, {}
    modules = peft_names.modules_in(file.shapes) or set()
    if any(m.startswith("down_blocks.") and ".resnets." in m for m in modules):
        use = "give the folder that holds unet_lora_adapter and vae_encoder_lora_adapter"
        return "vae_lora", "a LoRA of a VAE's encoder, probably one half of OMGSR-S's weights", use, {}
    if file.container == "folder":
        use = "for OMGSR-S it must hold unet_lora_adapter and vae_encoder_lora_adapter"
        return "unknown", f"a folder of LoRA adapters ({_folders(file)})", use, {}
    return None


def _folders(file: TensorFile) -> str:
    return ", ".join(sorted({name.partition("/")[0] for name in file.shapes}))


def _piece(file: TensorFile) -> _Found:
    """The tensors of OSEDiff or PiSA-SR without the lists that are beside them in their files."""
    if not any(
        ".lora_A.default_encoder" in name or ".lora_A.default_decoder" in name for name in file.shapes
    ):
        return None
    what = "a part of OSEDiff's or PiSA-SR's weights, without the lists of modules and the ranks"
    return "related_one_step", what, "give the whole file as it is published", {}


def _other_model(file: TensorFile) -> _Found:
    """A model that has no place here."""
    what = other_model(file)
    return None if what is None else ("other_model", what, f"it has no place here; {_GIVE_WEIGHTS}", {})


def _lora(file: TensorFile) -> _Found:
    """Adapters of other tools: kohya / ComfyUI / diffusers / peft."""
    ends = (
        ".lora_down.weight",
        ".lora.down.weight",
        ".lora_A.weight",
        ".lora_A.default.weight",
        ".hada_w1_a",
        ".lokr_w1",
        "_lora.down.weight",
    )
    kohya = _starts(file.shapes, "lora_unet_") or _starts(file.shapes, "lora_te")
    if not kohya and not any(name.endswith(ends) for name in file.shapes):
        return None
    style = "kohya" if kohya else "diffusers or ComfyUI"
    use = "OSEDiff needs its own weights; such a LoRA belongs on a text-to-image model"
    return "lora", f"a LoRA in the {style} format", use, {"style": style}


def _estimator(file: TensorFile) -> _Found:
    """The second of S3Diff's files."""
    if not s3diff.is_estimator(file):
        return None
    use = f"leave it beside s3diff.pkl under the name {s3diff.ESTIMATOR}, and pass that as the weights"
    return "estimator", "MM-RealSR's network that estimates degradations, for S3Diff", use, {}


def _decoder(file: TensorFile) -> _Found:
    """A light decoder for Stable Diffusion's latents."""
    kind = decoder_kind(file)
    if kind is None:
        return None
    use = "pass it as the decoder (--decoder; in a graph Light Decoder), beside weights and a base"
    return "light_decoder", kind or "a light decoder, AdcSR's or VOSR's", use, {}


def _parts(file: TensorFile) -> _Found:
    """One part of a pipeline, or a net of another trade."""
    shapes = file.shapes
    part = "pass the folder of the whole model as the base"
    if "conv_in.weight" in shapes and _starts(shapes, "down_blocks.") and not _starts(shapes, "controlnet_"):
        return "diffusers_model", "a UNet in the diffusers format", part, {"part": "unet"}
    if "encoder.conv_in.weight" in shapes and "decoder.conv_in.weight" in shapes:
        return "diffusers_model", "a VAE", part, {"part": "vae"}
    if any(name.endswith("embeddings.token_embedding.weight") for name in shapes):
        return "text_encoder", "a CLIP text encoder", part, {"part": "text_encoder"}
    of_pixels = any(shapes.get(first, ())[1:2] == (3,) for first in ("body.0.weight", "head.0.weight"))
    if of_pixels or "conv_first.weight" in shapes or "model.0.weight" in shapes:
        return "upscaler", "an upscaler network such as ESRGAN", _AS_UPSCALER, {}
    return None


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _identify_folder(path: Path) -> Identity:
    index = path / "model_index.json"
    halves = [file.parent for file in path.glob(f"*/*/{ADAPTER}")]
    if os.path.isfile(path / ADAPTER) or halves:
        whole = halves[0].parent if halves else path.parent
        use = f"give the folder that holds unet_lora_adapter and vae_encoder_lora_adapter, perhaps {whole}"
        return Identity("unknown", "a folder around or inside one with adapters, as OMGSR-S's", use, "folder")
    if not os.path.isfile(index) and not os.path.isfile(path / "unet" / "config.json"):
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
            config = parse_json(read_document(path / file))
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
