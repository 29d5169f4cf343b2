"""Counting a training step on the meta device: no weights, no arithmetic, just shapes.

What is counted: floating-point operations (2 a multiply-add) by torch's FlopCounterMode; and the bytes that autograd
keeps for the backward pass, each storage once, parameters not. Attention counts as fused, as it is on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from osediff_core.backends.raw import SD21_BASE
from osediff_core.backends.source import PACKAGED
from osediff_core.backends.tensor_files import read_json
from osediff_core.lora import attach_peft
from osediff_core.weights import ADAPTER_OF_GROUP

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REGULARISER = {group: f"regulariser_{group}" for group in ADAPTER_OF_GROUP}
_META = torch.device("meta")


@dataclass
class Networks:
    """A base on the meta device with the adapters of generator and regulariser on it."""

    unet: nn.Module
    vae: nn.Module
    text: nn.Module
    generator_adapters: list[str]
    regulariser_adapters: list[str]
    base_parameters: dict[str, int]  # by part, before adapters
    base_dtype: torch.dtype

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


def build(
    base: str,
    rank_unet: int,
    rank_vae: int,
    rank_regulariser: int,
    base_dtype: str = "fp32",
    tune_vae: bool = True,
) -> Networks:
    """Raises BaseModelError for a folder whose configurations cannot be read."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from peft import LoraConfig
    from transformers import CLIPTextConfig, CLIPTextModel

    folder, dtype = config_folder(base), DTYPES[base_dtype]
    configs = {part: read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder")}
    with _META:
        unet = UNet2DConditionModel.from_config(configs["unet"]).to(dtype)
        vae = AutoencoderKL.from_config(configs["vae"]).to(dtype)
        text = (
            CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])).to(dtype).requires_grad_(False)
        )
        parts = {"unet": unet, "vae": vae, "text encoder": text}
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        groups, _ = attach_peft(unet, vae, rank_unet, rank_vae, vae_modules=None if tune_vae else [])
        used = {group: modules for group, modules in groups.items() if modules}
        for group, modules in used.items():
            config = LoraConfig(r=rank_regulariser, init_lora_weights="gaussian", target_modules=modules)
            unet.add_adapter(config, adapter_name=_REGULARISER[group])
    for name, parameter in (*unet.named_parameters(), *vae.named_parameters()):
        if ".lora_" in name or name.startswith("conv_in.base_layer"):
            parameter.data = parameter.data.float()
    ours, its = [ADAPTER_OF_GROUP[group] for group in used], [_REGULARISER[group] for group in used]
    return Networks(unet, vae, text, ours, its, sizes, dtype)


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
        types: Any,
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
        from .tiny.perceptual import FeatureDistance

        network = FeatureDistance(int(kind[-1]))
    return network.to(_META).eval().requires_grad_(False)


@dataclass(frozen=True)
class StepCounts:
    """flops: of one step by part; the text encoder's is that of one prompt and not a part of the step.

    saved: bytes kept for the backward pass by part, "regulariser" when the others are gone. block: of the largest block
    that is computed again, 0 without gradient checkpointing.
    """

    flops: dict[str, int]
    saved: dict[str, int]
    block: int


def count_step(
    networks: Networks,
    perceptual: nn.Module | None,
    resolution: int,
    batch: int,
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
    teacher_passes: int = 2,
    regularised: bool = True,
) -> StepCounts:
    """Run the passes of a step on shapes. resolution: px, a multiple of the VAE's downscale.

    teacher_passes: of the frozen UNet a sample, 2 with guidance. regularised: whether a fake score is asked and learns.
    """
    saved: dict[str, int] = {}
    blocks = [0]
    flops: dict[str, int] = {}

    def keep(block: nn.Module, *args: Any) -> Any:  # noqa: ANN401 - a block's own
        for tensor in args:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.square()  # its graph saves the input, as a checkpoint would
        inside: dict[str, int] = {}
        with _saving(inside, "block"):
            out = block(*args)
        blocks.append(inside["block"])
        return out

    def again(block: nn.Module, *args: Any) -> Any:  # noqa: ANN401
        return checkpoint(block.__call__, *args, use_reentrant=False, preserve_rng_state=False)

    step = _Step(networks, perceptual, resolution, batch)
    with OnGPU(precision):
        networks.checkpoint_by(keep if gradient_checkpointing else None)
        step.generator(lambda part: _saving(saved, part))
        if regularised:
            step.regulariser(lambda part: _saving(saved, part))
        networks.checkpoint_by(again if gradient_checkpointing else None)
        loss = step.generator(lambda part: _counting(flops, part))
        with _counting(flops, "generator backward"):
            loss.backward()
        step.distillation(lambda part: _counting(flops, part), teacher_passes, regularised)
        if regularised:
            loss = step.regulariser(lambda part: _counting(flops, part))
            with _counting(flops, "regulariser backward"):
                loss.backward()
        with _counting(flops, "text encoder"), torch.no_grad():
            step.encode_prompt()
    return StepCounts(flops, saved, max(blocks))


Watch = Callable[[str], AbstractContextManager[None]]


class _Step:
    """The passes of one step, each part inside what `watch(part)` gives."""

    def __init__(self, networks: Networks, perceptual: nn.Module | None, resolution: int, batch: int) -> None:
        self.networks, self.perceptual, self.batch = networks, perceptual, batch
        unet, vae = networks.unet.config, networks.vae.config
        self.side = resolution // 2 ** (len(vae.block_out_channels) - 1)
        self.picture = torch.empty(batch, 3, resolution, resolution, device=_META)
        self.latents = torch.empty(batch, vae.latent_channels, self.side, self.side, device=_META)
        self.tokens = networks.text.config.max_position_embeddings
        self.width = unet.cross_attention_dim

    def generator(self, watch: Watch) -> Tensor:
        """MSE + perceptual + distillation."""
        vae = self.networks.vae
        self.networks.play(self.networks.generator_adapters)
        with watch("VAE encode"):
            posterior = vae.encode(self._as_base(self.picture)).latent_dist
            latents = posterior.mean + posterior.std * self.latents
        with watch("UNet"):
            latents = (latents - self._predict(latents)) * 0.5
        with watch("VAE decode"):
            image = vae.decode(self._as_base(latents)).sample.float().clamp(-1, 1)
            loss = F.mse_loss(image, self.picture) + F.mse_loss(latents.float(), self.latents)
        if self.perceptual is not None:
            with watch("perceptual"):
                loss = loss + self.perceptual(image, self.picture).mean()
        return loss

    @torch.no_grad()
    def distillation(self, watch: Watch, teacher_passes: int, regularised: bool) -> None:
        """The predictions that the direction is made of."""
        if regularised:
            self.networks.play(self.networks.regulariser_adapters)
            with watch("fake score"):
                self._predict(self.latents)
        if teacher_passes:
            self.networks.play([])
            with watch("teacher"):
                self._predict(self.latents.repeat(teacher_passes, 1, 1, 1))

    def regulariser(self, watch: Watch) -> Tensor:
        """The fake score's own loss."""
        self.networks.play(self.networks.regulariser_adapters)
        with watch("regulariser"):
            return F.mse_loss(self._predict(self.latents), self.latents)

    def encode_prompt(self) -> None:
        """One prompt."""
        self.networks.text(torch.zeros(1, self.tokens, dtype=torch.long, device=_META))

    def _predict(self, latents: Tensor) -> Tensor:
        timesteps = torch.zeros(len(latents), dtype=torch.long, device=_META)
        prompt_embeds = torch.empty(len(latents), self.tokens, self.width, device=_META)
        found = self.networks.unet(self._as_base(latents), timesteps, self._as_base(prompt_embeds))
        return found.sample.float()

    def _as_base(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.networks.base_dtype)


@contextmanager
def _saving(found: dict[str, int], part: str) -> Iterator[None]:
    """Inside, what autograd saves is counted here and not by what is around."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage  # kept, as an address may be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    found[part] = sum(storage.nbytes() for storage in storages.values())


@contextmanager
def _counting(found: dict[str, int], part: str) -> Iterator[None]:
    with FlopCounterMode(display=False) as counter:
        yield
    found[part] = counter.get_total_flops()


def _adapter(name: str) -> str | None:
    return name.split(".")[-2] if ".lora_" in name else None
