"""A base in diffusers' layout as ComfyUI's MODEL, CLIP and VAE.

ComfyUI recognises Stable Diffusion's own sizes from a file; a base of other sizes says them in its configs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.model import Normalize
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...osediff_core.backends.base_configs import read_json
from ...osediff_core.errors import BaseModelError
from .names import convert_vae, unet_names
from .vae import network_of

_PREFIX = "model.diffusion_model."
_UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
_VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
_TEXT_FILE = "text_encoder/model.safetensors"


def load_folder(
    folder: Path, dtype: torch.dtype | None = None
) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a diffusers folder with UNet2DConditionModel, CLIPTextModel and AutoencoderKL.

    dtype: of the weights; None leaves it to ComfyUI. Raises BaseModelError for a folder that is not whole.
    """
    return load_model(folder, dtype), load_clip(folder, dtype), load_vae(folder, dtype)


def load_model(folder: Path, dtype: torch.dtype | None, disable_dynamic: bool = False) -> ModelPatcher:
    """The UNet as a MODEL. disable_dynamic: ComfyUI asks for it where it needs a plain ModelPatcher."""
    config = _model_config(folder)
    tensors = _tensors(folder / _UNET_FILE)
    management = comfy.model_management
    device = management.get_torch_device()
    known = config.supported_inference_dtypes
    parameters = sum(tensor.numel() for tensor in tensors.values())
    weight_dtype = dtype or management.unet_dtype(model_params=parameters, supported_dtypes=known)
    config.set_inference_dtype(weight_dtype, management.unet_manual_cast(weight_dtype, device, known), device)
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=management.unet_offload_device())
    names = unet_names(config.unet_config)
    renamed = {_PREFIX + names[key]: tensor for key, tensor in tensors.items() if key in names}
    _check_whole(renamed, {_PREFIX + key for key in model.diffusion_model.state_dict()}, folder / _UNET_FILE)
    model.load_model_weights(renamed, _PREFIX, assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_model, (folder, dtype))
    return patcher


def load_vae(folder: Path, dtype: torch.dtype | None) -> comfy.sd.VAE:
    """The AutoencoderKL as a VAE."""
    config = read_json(folder / "vae/config.json")
    widths = config["block_out_channels"]
    params = {
        "ddconfig": {
            "double_z": True,
            "z_channels": config["latent_channels"],
            "resolution": config["sample_size"],
            "in_channels": config["in_channels"],
            "out_ch": config["out_channels"],
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "embed_dim": config["latent_channels"],
    }
    tensors = convert_vae(_tensors(folder / _VAE_FILE), levels=len(widths))
    wanted = set(tensors)
    # ComfyUI's own preference for a VAE's precision is bf16; fp32 is what such a small one can afford
    with _norm_groups(config["norm_num_groups"]):
        vae = comfy.sd.VAE(sd=tensors, config={"params": params}, dtype=dtype or torch.float32)
    _check_whole(wanted, set(network_of(vae).state_dict()), folder / _VAE_FILE)
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(widths) - 1)
    vae.latent_channels = config["latent_channels"]
    return vae


@contextmanager
def _norm_groups(count: int) -> Iterator[None]:
    """ComfyUI builds VAEs with 32 groups in every norm whatever their config says; here, with `count`."""
    usual = Normalize.__defaults__
    Normalize.__defaults__ = (count,)  # the function itself is the default of others' arguments
    try:
        yield
    finally:
        Normalize.__defaults__ = usual


def load_clip(folder: Path, dtype: torch.dtype | None) -> comfy.sd.CLIP:
    """The text encoder and its tokenizer as a CLIP."""
    config = read_json(folder / "text_encoder/config.json")
    tensors = {
        key if key.startswith("text_model.") else f"text_model.{key}": tensor
        for key, tensor in _tensors(folder / _TEXT_FILE).items()
        if not key.endswith("position_ids")
    }
    # Stable Diffusion does not use the pooled output, but ComfyUI computes it and would take what memory holds
    tensors["text_projection.weight"] = torch.eye(config["hidden_size"])
    target = comfy.supported_models_base.ClipTarget(*_clip_parts(config, folder / "tokenizer"))
    options = {} if dtype is None else {"dtype": dtype}
    return comfy.sd.CLIP(target, model_options=options, state_dict=[tensors])


def _model_config(folder: Path) -> comfy.supported_models_base.BASE:
    """The config that ComfyUI's model detection would find, were the sizes Stable Diffusion's."""
    unet, vae = read_json(folder / "unet/config.json"), read_json(folder / "vae/config.json")
    schedule = read_json(folder / "scheduler/scheduler_config.json")
    preview = read_json(folder / "vae/latent_rgb.json")

    class Format(comfy.latent_formats.LatentFormat):
        latent_channels = vae["latent_channels"]
        scale_factor = vae["scaling_factor"]
        spacial_downscale_ratio = 2 ** (len(vae["block_out_channels"]) - 1)
        latent_rgb_factors = preview["factors"]
        latent_rgb_factors_bias = preview["bias"]

    class Config(comfy.supported_models.SD20):
        latent_format = Format
        unet_extra_config = {  # noqa: RUF012 - as ComfyUI's own; what stands here outweighs what is given below
            **comfy.supported_models.SD20.unet_extra_config,
            # diffusers' "attention_head_dim" of Stable Diffusion 2 is the number of heads
            "num_head_channels": unet["block_out_channels"][0]
            // _per_level(unet["attention_head_dim"], 1)[0],
        }
        sampling_settings = {  # noqa: RUF012 - as ComfyUI's own configs
            "beta_schedule": "linear",  # of the square roots: diffusers' scaled_linear
            "linear_start": schedule["beta_start"],
            "linear_end": schedule["beta_end"],
            "timesteps": schedule["num_train_timesteps"],
        }

    return Config(_unet_config(unet))


def _unet_config(config: dict[str, Any]) -> dict[str, Any]:
    widths = config["block_out_channels"]
    layers = _per_level(config["layers_per_block"], len(widths))
    transformers = _per_level(config.get("transformer_layers_per_block", 1), len(widths))
    depths = [
        depth if kind.startswith("CrossAttn") else 0
        for kind, depth in zip(config["down_block_types"], transformers, strict=True)
    ]
    by_level = list(zip(depths, layers, strict=True))
    return {
        "image_size": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": layers,
        "transformer_depth": [depth for depth, count in by_level for _ in range(count)],
        "transformer_depth_output": [depth for depth, count in by_level for _ in range(count + 1)],
        "transformer_depth_middle": transformers[-1],
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config["use_linear_projection"],
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "adm_in_channels": None,
        "legacy": False,
    }


def _per_level(value: int | list[int], levels: int) -> list[int]:
    """What diffusers' configs give once, or once a level."""
    return list(value) if isinstance(value, list) else [value] * levels


def _clip_parts(
    config: dict[str, Any], tokenizer_folder: Path
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(tokenizer, model), which ComfyUI calls itself with arguments of its own."""
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}
    width = config["hidden_size"]

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(
            self,
            device: str = "cpu",
            dtype: torch.dtype | None = None,
            model_options: dict[str, Any] | None = None,
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                layer="last",
                textmodel_json_config=dict(config),
                special_tokens=special,
                model_options=model_options or {},
            )
            # ComfyUI's CLIP always has the 49408 rows of OpenAI's
            embedding = self.operations.Embedding(config["vocab_size"], width, dtype=dtype, device=device)
            self.transformer.set_input_embeddings(embedding)

    # pyright takes the defaults of ComfyUI's parameters for their types
    model = partial(
        comfy.sd1_clip.SD1ClipModel,
        clip_name="h",
        clip_model=Encoder,  # pyright: ignore[reportArgumentType]
    )
    words = partial(
        comfy.sd1_clip.SDTokenizer,
        str(tokenizer_folder),
        pad_with_end=False,
        embedding_size=width,
        embedding_key="clip_h",
    )
    tokenizer = partial(
        comfy.sd1_clip.SD1Tokenizer,
        clip_name="h",
        tokenizer=words,  # pyright: ignore[reportArgumentType]
    )
    return tokenizer, model


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BaseModelError(f"{path} is missing; install the pack again.")
    return cast("dict[str, Tensor]", comfy.utils.load_torch_file(str(path), safe_load=True))


def _check_whole(found: Iterable[str], wanted: Iterable[str], path: Path) -> None:
    """ComfyUI loads what fits and only logs what is missing."""
    if set(found) != set(wanted):
        raise BaseModelError(f"{path} does not hold what its configuration says; install the pack again.")
