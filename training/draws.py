"""The random numbers of a step, drawn for every sample on its own.

Each draw depends on (seed, number of the sample) alone: not on the batch, the rank, the device or what was drawn
before. So ranks never repeat each other, more ranks give the same numbers as one with a larger batch, and a resumed
run needs no generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_GENERATOR, _REGULARISER = 0, 1  # the purpose keeps the draws of one sample apart


@dataclass
class Draws:
    """What is random in one forward: all of the latents' shape (B, C, h, w), and timesteps (B,).

    posterior_noise: of the VAE encoder's sample, None where its mode is taken or nothing is encoded.
    """

    noise: Tensor
    timesteps: Tensor
    posterior_noise: Tensor | None = None

    def to(self, device: torch.device) -> Draws:
        """The same on another device."""
        posterior = None if self.posterior_noise is None else self.posterior_noise.to(device)
        return Draws(self.noise.to(device), self.timesteps.to(device), posterior)


def generator_draws(
    seed: int,
    numbers: Sequence[int],
    shape: Sequence[int],
    timesteps: tuple[int, int],
    sample_posterior: bool,
) -> Draws:
    """For the samples `numbers`: posterior noise, then the timestep (both ends included) and noise of the distillation.

    shape: (C, h, w) of the latents.
    """
    posterior, t, noise = [], [], []
    for number in numbers:
        rng = _generator(seed, number, _GENERATOR)
        posterior.append(torch.randn(*shape, generator=rng))
        t.append(torch.randint(timesteps[0], timesteps[1] + 1, (), generator=rng))
        noise.append(torch.randn(*shape, generator=rng))
    return Draws(torch.stack(noise), torch.stack(t), torch.stack(posterior) if sample_posterior else None)


def regulariser_draws(
    seed: int, numbers: Sequence[int], shape: Sequence[int], num_timesteps: int, update: int
) -> Draws:
    """For the samples `numbers` in the regulariser's `update`-th step: noise, then a timestep of all that there are."""
    noise, t = [], []
    for number in numbers:
        rng = _generator(seed, number, _REGULARISER + update)
        noise.append(torch.randn(*shape, generator=rng))
        t.append(torch.randint(0, num_timesteps, (), generator=rng))
    return Draws(torch.stack(noise), torch.stack(t))


def _generator(seed: int, number: int, purpose: int) -> torch.Generator:
    """The CPU's, so that a seed means the same on every device."""
    state = np.random.SeedSequence(seed, spawn_key=(number, purpose)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
