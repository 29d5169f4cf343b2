"""The two losses of a step as modules, so that a distributed wrapper around them sees every gradient.

The official script calls methods beside `forward`, which a wrapper does not see: its ranks' regularisers drift apart.
Each module here registers just the parameters that it trains; the networks themselves are shared and not its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.runtime.device import DTYPES

from .config import LossConfig
from .draws import Draws
from .losses.balance import GradientBalance
from .losses.teacher import teacher_loss
from .networks import Networks
from .regularisers import Made, regularisers_of
from .roles import GENERATOR


class GeneratorStep(nn.Module):
    """Restores a batch by the core's verbs: MSE + perceptual + distillation, and what else has a weight.

    balance: of the terms that have a share of the gradient instead.
    """

    def __init__(
        self,
        networks: Networks,
        loss: LossConfig,
        kind: str,
        perceptual: nn.Module | None,
        precision: str = "fp32",
        balance: GradientBalance | None = None,
    ) -> None:
        """kind: of the regulariser."""
        super().__init__()
        self.trained = nn.ParameterList(networks.generator_parameters.values())
        self.loss, self.precision = loss, precision
        # in a tuple, as a module set as an attribute would become a part
        self._shared = (networks, perceptual, regularisers_of(kind, networks, loss))
        self.balance = balance or GradientBalance({})

    def forward(
        self,
        lq: Tensor,
        hq: Tensor,
        prompt_embeds: Tensor,
        negative_embeds: Tensor,
        draws: Draws,
        target: Tensor | None = None,
        generator_embeds: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """lq, hq (B, 3, H, W) in [-1, 1]; embeddings (B, L, D) -> scalars "loss" and its terms, "latents" z_H, "image".

        "latents" and "image" carry no graph: they are what the regulariser learns from. target: a teacher's, as hq.
        generator_embeds: the generator's own, where they are not those of the distillation.
        """
        networks, perceptual, regularisers = self._shared
        generator, figures = networks.generator, {}
        with autocast(lq.device, self.precision):
            z_lq = generator.encode(lq, posterior_noise=draws.posterior_noise)
            latents = generator.denoise(z_lq, prompt_embeds if generator_embeds is None else generator_embeds)
            image = generator.decode(latents)
            terms = {"l2": F.mse_loss(image, hq)}
            if perceptual is not None:
                terms["perceptual"] = perceptual(image, hq).mean()
            if target is not None:
                terms["teacher"] = teacher_loss(image, target)
            made = Made(latents, image, hq, prompt_embeds, negative_embeds)
            for name, regulariser in regularisers.items():
                terms[name], further = regulariser.for_generator(made, draws)
                figures |= further
        loss = torch.stack([self.loss.weight(name) * term for name, term in terms.items()]).sum()
        if self.balance:
            weights = self.balance.weights(terms, loss, latents)
            loss = loss + torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        return {"loss": loss, **terms, **figures, "latents": latents.detach(), "image": image.detach()}


class RegulariserStep(nn.Module):
    """The fake score learns the generator's outputs by denoising them; the discriminator learns to tell them apart."""

    def __init__(self, networks: Networks, loss: LossConfig, kind: str, precision: str = "fp32") -> None:
        super().__init__()
        self.trained = nn.ParameterList(networks.regulariser_parameters.values())
        self.weight, self.precision = loss.diffusion, precision
        self._shared = (regularisers_of(kind, networks, loss),)

    def forward(
        self, latents: Tensor, image: Tensor, hq: Tensor, prompt_embeds: Tensor, draws: Draws
    ) -> Tensor:
        """Restored latents (B, C, h, w), images (B, 3, H, W), without graphs -> the loss."""
        (regularisers,) = self._shared
        made = Made(latents, image, hq, prompt_embeds)
        with autocast(latents.device, self.precision):
            losses = [one.own_loss(made, draws) for one in regularisers.values() if one.trained]
        return self.weight * torch.stack(losses).sum()


def restore(networks: Networks, lq: Tensor, prompt_embeds: Tensor, precision: str) -> Tensor:
    """As users will: posterior mode, one step, decoded; lq (B, 3, H, W) in [-1, 1] -> the same shape, no graph."""
    generator = networks.generator
    with torch.no_grad(), autocast(lq.device, precision), networks.unet_roles.role(GENERATOR):
        return generator.decode(generator.denoise(generator.encode(lq), prompt_embeds))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in half precision, where one was chosen; equations and losses stay fp32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
