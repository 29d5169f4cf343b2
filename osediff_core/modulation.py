"""Modulation of LoRA by how degraded a picture is, as S3Diff does it: every block gets a matrix between its factors.

Zhang et al., "Degradation-Guided One-Step Image Super-Resolution with Diffusion Priors" (arXiv 2409.17058): a network
estimates blur and noise, d in (0, 1)^2, their Fourier features and an embedding of the block make M (r, r), and a layer
becomes y = W x + scale B (M^T (A x)), which is LoRA with A' = M^T A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .weights.one_step_weights import LoRAPair, LoRASet, OneStepWeights

Tensors = Mapping[str, Tensor]
_BRANCHES = 2  # blur and noise
_STRIDED = 6  # of the estimator's layers, the one that halves the image; the others are residual blocks
_LAYERS = 9


class Modulation:
    """LoRA sets for a picture. weights: those of the method, with everything else that it needs in `extra`."""

    def __init__(self, weights: OneStepWeights) -> None:
        self._weights = weights
        self._extra = {name: tensor.float() for name, tensor in weights.extra.items()}

    def degradation(self, image: Tensor) -> Tensor:
        """image (1, 3, h, w) in [-1, 1], before it is enlarged -> (1, 2) in (0, 1): how blurred and how noisy."""
        tensors = {
            n.removeprefix("estimator."): t for n, t in self._extra.items() if n.startswith("estimator.")
        }
        image = (image.detach().to("cpu", torch.float32) + 1) / 2
        return torch.cat([_estimate(tensors, branch, image) for branch in range(_BRANCHES)], dim=1)

    def matrices(self, part: str, degradation: Tensor) -> Tensor:
        """Those of all blocks of the "unet" or "vae": (blocks, r, r)."""
        own = {n.removeprefix(f"{part}."): t for n, t in self._extra.items() if n.startswith(f"{part}.")}
        angles = 2 * math.pi * degradation[:, :, None] * self._extra["w"]  # (1, 2, 64)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (1, 256)
        picture = F.relu(F.linear(features, own["de_mlp.0.weight"], own["de_mlp.0.bias"]))
        blocks = F.relu(F.linear(own["block.weight"], own["block_mlp.0.weight"], own["block_mlp.0.bias"]))
        both = torch.cat([picture.expand(len(blocks), -1), blocks], dim=1)
        fused = F.linear(both, own["fuse_mlp.weight"], own["fuse_mlp.bias"])
        rank = math.isqrt(fused.shape[1])
        return fused.unflatten(1, (rank, rank))

    def __call__(self, image: Tensor) -> tuple[list[LoRASet], LoRASet]:
        """The UNet's sets and the VAE's for an image, as in `degradation`."""
        with torch.inference_mode(False), torch.no_grad():
            degradation = self.degradation(image.clone())
            unet, vae = (self.matrices(part, degradation) for part in ("unet", "vae"))
            sets = [_modulated(lora, unet, _unet_block) for lora in self._weights.unet_sets]
            return sets, _modulated(self._weights.vae_lora, vae, _vae_block)


def _estimate(tensors: Tensors, branch: int, image: Tensor) -> Tensor:
    """(1, 3, h, w) in [0, 1] -> (1, 1)."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride, padding=1)

    x = conv(f"conv_first.{branch}", image)
    for layer in range(_LAYERS):
        name = f"body.{branch}.{layer}"
        if layer == _STRIDED:
            x = conv(name, x, stride=2)
        else:
            x = x + conv(f"{name}.conv2", F.relu(conv(f"{name}.conv1", x)))
    x = x.mean((2, 3))
    for number in (0, 2):
        name = f"fc_degree.{branch}.{number}"
        x = F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        x = F.relu(x) if number == 0 else x.sigmoid()
    return x


def _modulated(lora: LoRASet, matrices: Tensor, block_of: Callable[[str], int]) -> LoRASet:
    pairs = {
        module: LoRAPair(torch.einsum("kr,k...->r...", matrices[block_of(module)].to(a), a), b)
        for module, (a, b) in lora.items()
    }
    return LoRASet(pairs, rank=lora.rank, scale=lora.scale, name=lora.name)


def _unet_block(module: str) -> int:
    """Down 0 to 3, middle 4, up 5 to 8, conv_out 9."""
    first, _, rest = module.partition(".")
    if first == "down_blocks":
        return int(rest.split(".")[0])
    if first == "up_blocks":
        return 5 + int(rest.split(".")[0])
    return 4 if first == "mid_block" else 9


def _vae_block(module: str) -> int:
    """Of the encoder: down 0 to 3, middle 4, conv_in and conv_out 5."""
    _, first, *rest = module.split(".")
    if first == "down_blocks":
        return int(rest[0])
    return 4 if first == "mid_block" else 5
