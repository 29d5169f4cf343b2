"""The two halves of an AutoencoderKL in training, as they are called there: unscaled latents, and typed results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput


def posterior(vae: AutoencoderKL, images: Tensor) -> DiagonalGaussianDistribution:
    """Images (B, 3, H, W) in [-1, 1] -> the distribution of their latents (B, C, h, w)."""
    return cast("AutoencoderKLOutput", vae.encode(images)).latent_dist


def decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(B, C, h, w) -> images (B, 3, H, W), not clamped."""
    decode: Any = vae.decode  # which is said to want the legacy FloatTensor
    return cast("DecoderOutput", decode(latents)).sample


def scaling_factor(vae: AutoencoderKL) -> float:
    """What brings the latents to unit variance."""
    return vae.config["scaling_factor"]
