"""Counting a training step on the meta device: no weights, no arithmetic, just shapes.

What is counted: floating-point operations (2 a multiply-add) by torch's FlopCounterMode; and the bytes that autograd
keeps for the backward pass, each storage once, parameters not. Attention counts as fused, as it is on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from .meta_networks import META, MetaNetworks, OnGPU

PROMPT = "text encoder"  # the part that encodes one prompt, which a cache makes rare


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
    networks: MetaNetworks,
    perceptual: nn.Module | None,
    resolution: int,
    batch: int,
    *,
    base_dtype: str = "fp32",
    precision: str = "fp32",
    gradient_checkpointing: bool = False,
    teacher_passes: int = 2,
    regularised: bool = True,
) -> StepCounts:
    """Run the passes of a step on shapes. resolution: px, a multiple of the VAE's downscale.

    base_dtype: of frozen weights; precision: of autocast. Neither changes the FLOPs; what fused attention computes once
    more in its backward pass is not among them. teacher_passes: of the frozen UNet a sample, 2 with guidance.
    regularised: whether a fake score is asked and learns.
    """
    step = _Step(networks, perceptual, resolution, batch)
    flops = _count_flops(networks, step, gradient_checkpointing, teacher_passes, regularised)
    with networks.in_dtype(base_dtype), OnGPU(precision):
        saved, block = _count_saved(networks, step, gradient_checkpointing, regularised)
    return StepCounts(flops, saved, block)


def _count_saved(
    networks: MetaNetworks, step: _Step, gradient_checkpointing: bool, regularised: bool
) -> tuple[dict[str, int], int]:
    modules = [networks.unet, networks.vae, *([step.perceptual] if step.perceptual else [])]
    weights = frozenset(_storage_of(p) for module in modules for p in module.parameters())
    saved: dict[str, int] = {}
    blocks = [0]

    def keep(block: nn.Module, *args: Any) -> Any:  # noqa: ANN401 - a block's own
        for tensor in args:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.square()  # its graph saves the input, as a checkpoint would
        inside: dict[str, int] = {}
        with _saving(inside, "block", weights):
            out = block(*args)
        blocks.append(inside["block"])
        return out

    networks.checkpoint_by(keep if gradient_checkpointing else None)
    step.generator(lambda part: _saving(saved, part, weights))
    if regularised:
        step.regulariser(lambda part: _saving(saved, part, weights))
    return saved, max(blocks)


def _count_flops(
    networks: MetaNetworks, step: _Step, gradient_checkpointing: bool, teacher_passes: int, regularised: bool
) -> dict[str, int]:
    flops: dict[str, int] = {}

    def again(block: nn.Module, *args: Any) -> Any:  # noqa: ANN401
        return checkpoint(block.__call__, *args, use_reentrant=False, preserve_rng_state=False)

    networks.checkpoint_by(again if gradient_checkpointing else None)
    loss = step.generator(lambda part: _counting(flops, part))
    with _counting(flops, "generator backward"):
        loss.backward()
    step.distillation(lambda part: _counting(flops, part), teacher_passes, regularised)
    if regularised:
        loss = step.regulariser(lambda part: _counting(flops, part))
        with _counting(flops, "regulariser backward"):
            loss.backward()
    with _counting(flops, PROMPT), torch.no_grad():
        step.encode_prompt()
    return flops


Watch = Callable[[str], AbstractContextManager[None]]


class _Step:
    """The passes of one step, each part inside what `watch(part)` gives."""

    def __init__(
        self, networks: MetaNetworks, perceptual: nn.Module | None, resolution: int, batch: int
    ) -> None:
        self.networks, self.perceptual, self.batch = networks, perceptual, batch
        unet, vae = networks.unet.config, networks.vae.config
        self.side = resolution // 2 ** (len(vae.block_out_channels) - 1)
        self.picture = torch.empty(batch, 3, resolution, resolution, device=META)
        self.latents = torch.empty(batch, vae.latent_channels, self.side, self.side, device=META)
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
        self.networks.text(torch.zeros(1, self.tokens, dtype=torch.long, device=META))

    def _predict(self, latents: Tensor) -> Tensor:
        timesteps = torch.zeros(len(latents), dtype=torch.long, device=META)
        prompt_embeds = torch.empty(len(latents), self.tokens, self.width, device=META)
        found = self.networks.unet(self._as_base(latents), timesteps, self._as_base(prompt_embeds))
        return found.sample.float()

    def _as_base(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.networks.unet.dtype)


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _saving(found: dict[str, int], part: str, weights: frozenset[int]) -> Iterator[None]:
    """Inside, what autograd saves is counted here and not by what is around; weights: storages left out."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _storage_of(tensor) not in weights:
            storages[_storage_of(tensor)] = tensor.untyped_storage()  # kept: an address may be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    found[part] = sum(storage.nbytes() for storage in storages.values())


@contextmanager
def _counting(found: dict[str, int], part: str) -> Iterator[None]:
    with FlopCounterMode(display=False) as counter:
        yield
    found[part] = counter.get_total_flops()
