"""The two losses of a step as modules, so that a distributed wrapper around them sees every gradient.

The official script calls methods beside `forward`, which a wrapper does not see: its ranks' regularisers drift apart.
Each module here registers just the parameters that it trains; the networks themselves are shared and not its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.runtime.device import DTYPES

from .config import LossConfig
from .discriminator import adversarial_gradient, adversarial_loss
from .draws import Draws
from .networks import Networks
from .roles import GENERATOR, REGULARISER, TEACHER
from .vsd import diffusion_loss, distillation_gradient, loss_with_gradient


class GeneratorStep(nn.Module):
    """Restores a batch through the core's verbs: MSE + perceptual + distillation."""

    def __init__(
        self,
        networks: Networks,
        loss: LossConfig,
        kind: str,
        perceptual: nn.Module | None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.trained = nn.ParameterList(networks.generator_parameters.values())
        # in a tuple, as a module set as an attribute would become a part
        self._shared = (networks, perceptual)
        self.loss, self.kind, self.precision = loss, kind, precision

    def forward(
        self, lq: Tensor, hq: Tensor, prompt_embeds: Tensor, negative_embeds: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """lq, hq (B, 3, H, W) in [-1, 1]; embeddings (B, L, D) -> scalars "loss" and its terms, "latents" z_H, "image".

        "latents" carries no graph: it is what the regulariser learns from.
        """
        networks, perceptual = self._shared
        generator = networks.generator
        with autocast(lq.device, self.precision):
            z_lq = generator.encode(lq, posterior_noise=draws.posterior_noise)
            latents = generator.denoise(z_lq, prompt_embeds)
            image = generator.decode(latents)
            terms = {"l2": F.mse_loss(image, hq)}
            if perceptual is not None:
                terms["perceptual"] = perceptual(image, hq).mean()
            extra = {}
            if self.kind != "none":
                # in the image's domain: the restored image through the untuned encoder, with gradients
                target = networks.encode_untuned(image) if self.kind == "vsd-pixel" else latents
                gradient, extra = self._gradient(target, prompt_embeds, negative_embeds, draws)
                terms["regulariser"] = loss_with_gradient(target, gradient)
        loss = sum(getattr(self.loss, name) * term for name, term in terms.items())
        return {"loss": loss, **terms, **extra, "latents": latents.detach(), "image": image.detach()}

    def _gradient(
        self, latents: Tensor, prompt_embeds: Tensor, negative_embeds: Tensor, draws: Draws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        networks, _ = self._shared
        fake, schedule = partial(networks.predict, REGULARISER), networks.base.schedule
        if self.kind == "gan":
            gradient, value = adversarial_gradient(
                latents, schedule, draws, networks.discriminator, fake, prompt_embeds
            )
            return gradient, {"adversarial": value}
        kind = "vsd" if self.kind == "vsd-pixel" else self.kind
        teacher = partial(networks.predict, TEACHER)
        gradient = distillation_gradient(
            kind, latents, schedule, draws, teacher, fake, prompt_embeds, negative_embeds, self.loss.guidance
        )
        return gradient, {}


class RegulariserStep(nn.Module):
    """The fake score learns the generator's outputs by denoising them; the discriminator learns to tell them apart."""

    def __init__(self, networks: Networks, loss: LossConfig, kind: str, precision: str = "fp32") -> None:
        super().__init__()
        self.trained = nn.ParameterList(networks.regulariser_parameters.values())
        self._shared = (networks,)
        self.weight, self.kind, self.precision = loss.diffusion, kind, precision

    def forward(
        self, latents: Tensor, image: Tensor, hq: Tensor, prompt_embeds: Tensor, draws: Draws
    ) -> Tensor:
        """Restored latents (B, C, h, w), images (B, 3, H, W), without graphs -> the loss."""
        (networks,) = self._shared
        model, schedule = partial(networks.predict, REGULARISER), networks.base.schedule
        with autocast(latents.device, self.precision):
            if self.kind == "vsd-pixel":
                with torch.no_grad():
                    latents = networks.encode_untuned(image)
            if self.kind == "gan":
                with torch.no_grad():
                    real = networks.encode_untuned(hq)
                return self.weight * adversarial_loss(
                    latents, real, schedule, draws, networks.discriminator, model, prompt_embeds
                )
            return self.weight * diffusion_loss(latents, schedule, draws, model, prompt_embeds)


def restore(networks: Networks, lq: Tensor, prompt_embeds: Tensor, precision: str) -> Tensor:
    """As users will: posterior mode, one step, decoded; lq (B, 3, H, W) in [-1, 1] -> the same shape, no graph."""
    generator = networks.generator
    with torch.no_grad(), autocast(lq.device, precision), networks.unet_roles.role(GENERATOR):
        return generator.decode(generator.denoise(generator.encode(lq), prompt_embeds))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Matrix products in half precision, where one was chosen; equations and losses stay fp32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
