"""Regularisers: what pulls the generator towards good images beyond the distances to the reference.

Each says what the generator gets, with gradients to what it made, and what its own weights learn by, if it has some.
vsd.py has the equations of the scores, discriminator.py those of the GAN. Another kind is a class here or in a file of
its own and its line in `regularisers_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from .config import TRAINED_REGULARISERS, LossConfig
from .discriminator import adversarial_gradient, adversarial_loss
from .draws import Draws
from .losses.projected import Kind, discriminator_loss, generator_loss
from .networks import Networks
from .roles import REGULARISER, TEACHER
from .vsd import diffusion_loss, distillation_gradient, loss_with_gradient


@dataclass
class Made:
    """What the generator made of a micro-batch: latents z_H (B, C, h, w), image and its reference hq (B, 3, H, W) in
    [-1, 1]; prompt_embeds, negative_embeds (B, L, D), the latter only where the generator learns.
    """

    latents: Tensor
    image: Tensor
    hq: Tensor
    prompt_embeds: Tensor
    negative_embeds: Tensor | None = None


class Regulariser(Protocol):
    """What a step asks of one. trained: whether it has weights of its own."""

    trained: bool

    def for_generator(self, made: Made, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar with gradients to `made`, and further figures for the log."""
        ...

    def own_loss(self, made: Made, draws: Draws) -> Tensor:
        """What its own weights learn; `made` carries no graph. Asked only of one that is trained."""
        ...


class ScoreDistillation:
    """VSD, CSD, SDS (vsd.py) at the latents, or in_pixels at the image, through the untuned encoder."""

    def __init__(self, networks: Networks, kind: str, guidance: float, in_pixels: bool = False) -> None:
        self._networks, self._kind, self._guidance, self._in_pixels = networks, kind, guidance, in_pixels
        self.trained = kind in TRAINED_REGULARISERS
        self._teacher = partial(networks.predict, TEACHER)
        self._fake = partial(networks.predict, REGULARISER)

    def for_generator(self, made: Made, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss whose gradient is that of the kind."""
        assert made.negative_embeds is not None
        latents = self._latents(made)
        gradient = distillation_gradient(
            self._kind,
            latents,
            self._networks.base.schedule,
            draws,
            self._teacher,
            self._fake,
            made.prompt_embeds,
            made.negative_embeds,
            self._guidance,
        )
        return loss_with_gradient(latents, gradient), {}

    def own_loss(self, made: Made, draws: Draws) -> Tensor:
        """The fake score learns to denoise what the generator made."""
        with torch.no_grad():
            latents = self._latents(made)
        return diffusion_loss(latents, self._networks.base.schedule, draws, self._fake, made.prompt_embeds)

    def _latents(self, made: Made) -> Tensor:
        return self._networks.encode_untuned(made.image) if self._in_pixels else made.latents


class LatentGAN:
    """A discriminator on the fake score's features of noised latents (discriminator.py)."""

    trained = True

    def __init__(self, networks: Networks) -> None:
        assert networks.discriminator is not None
        self._networks, self._discriminator = networks, networks.discriminator
        self._features = partial(networks.predict, REGULARISER)

    def for_generator(self, made: Made, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss whose gradient is the discriminator's; its value is the figure "adversarial"."""
        schedule = self._networks.base.schedule
        gradient, value = adversarial_gradient(
            made.latents, schedule, draws, self._discriminator, self._features, made.prompt_embeds
        )
        return loss_with_gradient(made.latents, gradient), {"adversarial": value}

    def own_loss(self, made: Made, draws: Draws) -> Tensor:
        """The discriminator learns to tell restored latents from those of good images."""
        with torch.no_grad():
            real = self._networks.encode_untuned(made.hq)
        schedule = self._networks.base.schedule
        return adversarial_loss(
            made.latents, real, schedule, draws, self._discriminator, self._features, made.prompt_embeds
        )


class ImageGAN:
    """A discriminator on frozen features of images (losses/projected.py)."""

    trained = True

    def __init__(self, networks: Networks, kind: Kind) -> None:
        assert networks.projected is not None
        self._discriminator = networks.projected
        self._kind: Kind = kind

    def for_generator(self, made: Made, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The adversarial loss; its gradient reaches the image, and no head."""
        image = made.image.detach().requires_grad_(True)
        with torch.enable_grad():
            loss = generator_loss(self._discriminator(image).float(), self._kind)
        (gradient,) = torch.autograd.grad(loss, image)
        return loss.detach() + ((made.image - image.detach()) * gradient).sum(), {}

    def own_loss(self, made: Made, draws: Draws) -> Tensor:
        """The heads learn to tell restored images from good ones."""
        real, restored = self._discriminator(torch.cat([made.hq, made.image])).float().chunk(2)
        return discriminator_loss(real, restored, self._kind)


def regularisers_of(kind: str, networks: Networks, loss: LossConfig) -> dict[str, Regulariser]:
    """That of `model.regulariser`, and the discriminator on images, by the name of their weight in `loss`."""
    found: dict[str, Regulariser] = {}
    if kind == "gan":
        found["regulariser"] = LatentGAN(networks)
    elif kind != "none":
        name = kind.removesuffix("-pixel")
        found["regulariser"] = ScoreDistillation(networks, name, loss.guidance, in_pixels=name != kind)
    if networks.projected is not None:
        found["adversarial"] = ImageGAN(networks, loss.adversarial_kind)
    return found
