"""The networks of a training run on the meta device: shapes and types, without weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from osediff_core.backends.base_configs import read_configs
from osediff_core.backends.find_base import PACKAGED
from osediff_core.backends.read_base import SD21_BASE
from osediff_core.runtime.device import DTYPES
from osediff_core.weights.formats.osediff import ADAPTER_OF_GROUP

from .adapters import REGULARISER_ADAPTER, attach_peft, attach_regulariser

META = torch.device("meta")
_NORMS = (nn.GroupNorm, nn.LayerNorm)


@dataclass
class MetaNetworks:
    """A base on the meta device with the adapters of generator and regulariser on it."""

    unet: nn.Module
    vae: nn.Module
    text: nn.Module
    generator_adapters: list[str]
    regulariser_adapters: list[str]
    base_parameters: dict[str, int]  # by part, before adapters

    @contextmanager
    def in_dtype(self, base_dtype: str) -> Iterator[None]:
        """Inside, frozen weights are of that dtype, but for normalisation layers, which stay fp32 as in training."""
        self._cast(DTYPES[base_dtype])
        try:
            yield
        finally:
            self._cast(torch.float32)

    def _cast(self, dtype: torch.dtype) -> None:
        for module in (self.unet, self.vae):
            nn.Module.to(module, dtype)  # diffusers' own warns of layers it would keep
            for name, layer in module.named_modules():
                if ".lora_" in name or name == "conv_in.base_layer" or isinstance(layer, _NORMS):
                    layer.float()

    def play(self, adapters: list[str]) -> None:
        """Let these adapters of the UNet act and train; conv_in's own weights are the generator's."""
        if adapters:
            self.unet.enable_adapters()
            self.unet.set_adapter(adapters)
        else:
            self.unet.disable_adapters()
        self.unet.conv_in.base_layer.requires_grad_(adapters == self.generator_adapters)

    def checkpoint_by(self, compute: Callable[..., Any] | None) -> None:
        """Let `compute(block, *args)` run the blocks of UNet and VAE, or nothing but themselves."""
        for module in (self.unet, self.vae):
            if compute is None:
                module.disable_gradient_checkpointing()
            else:
                module.enable_gradient_checkpointing(compute)

    def trainable(self, adapters: list[str]) -> int:
        """Parameters that learn: the UNet's adapters; for the generator the VAE's, and conv_in itself, too."""
        of_unet = sum(p.numel() for name, p in self.unet.named_parameters() if _adapter(name) in adapters)
        if adapters != self.generator_adapters:
            return of_unet
        of_vae = sum(p.numel() for name, p in self.vae.named_parameters() if ".lora_" in name)
        return of_unet + of_vae + sum(p.numel() for p in self.unet.conv_in.base_layer.parameters())


def config_folder(base: str) -> Path:
    """Where the configurations of a base are; SD 2.1-base's for what is no folder: a single file or a hub id."""
    if base in PACKAGED:
        return PACKAGED[base]
    return Path(base) if (Path(base) / "unet" / "config.json").is_file() else SD21_BASE


@lru_cache(maxsize=1)
def build_on_meta(
    base: str,
    rank_unet: int,
    rank_vae: int,
    rank_regulariser: int,
    base_dtype: str = "fp32",
    tune_vae: bool = True,
) -> MetaNetworks:
    """The networks of SD 2.1-base, "tiny", or a folder; the same object for the same arguments, in fp32.

    Raises BaseModelError for a folder whose configurations cannot be read."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = config_folder(base)
    configs = read_configs(folder).parts
    with META, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of several adapters, which are meant
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])).requires_grad_(False)
        parts = {"unet": unet, "vae": vae, "text encoder": text}
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        groups, _ = attach_peft(unet, vae, rank_unet, rank_vae, vae_modules=None if tune_vae else [])
        attach_regulariser(unet, groups, rank_regulariser)
    used = [group for group, modules in groups.items() if modules]
    ours, its = ([names[group] for group in used] for names in (ADAPTER_OF_GROUP, REGULARISER_ADAPTER))
    return MetaNetworks(unet, vae, text, ours, its, sizes)


class OnGPU(TorchFunctionMode):
    """Runs meta tensors as CUDA would run real ones: fused attention, and autocast where precision is not fp32."""

    _LOW = frozenset(("conv2d", "linear", "matmul", "bmm", "scaled_dot_product_attention"))
    _HIGH = frozenset(("group_norm", "layer_norm", "mse_loss"))

    def __init__(self, precision: str = "fp32") -> None:
        super().__init__()
        self.dtype = None if precision == "fp32" else DTYPES[precision]

    def __torch_function__(
        self,
        func: Callable,
        types: object,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Any:  # noqa: ANN401
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        dtype = None
        if self.dtype is not None and name in self._LOW:
            dtype = self.dtype
        elif self.dtype is not None and name in self._HIGH:
            dtype = torch.float32
        if dtype is not None:
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {key: _cast(value, dtype) for key, value in kwargs.items()}
        if name == "scaled_dot_product_attention" and kwargs.get("attn_mask") is None and len(args) >= 3:
            out = torch.ops.aten._scaled_dot_product_efficient_attention(
                *args[:3], None, torch.is_grad_enabled()
            )
            return out[0]
        return func(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - any argument
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@lru_cache(maxsize=1)
def perceptual_network(kind: str) -> nn.Module | None:
    """The network of a perceptual loss on the meta device, without trained weights; None for "none"."""
    if kind == "none":
        return None
    if kind.startswith("lpips"):
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision as of old
            network = lpips.LPIPS(net=kind.partition("-")[2], pretrained=False, pnet_rand=True, verbose=False)
    else:
        from osediff_core.evaluate.perceptual import FeatureDistance

        network = FeatureDistance(int(kind[-1]))
    return network.to(META).eval().requires_grad_(False)


def _adapter(name: str) -> str | None:
    return name.split(".")[-2] if ".lora_" in name else None
