"""One network, several roles: which adapters act is switched around each call, not copied.

Generator, teacher and regulariser are the same frozen weights; they differ by their LoRA and by the generator's own
`conv_in`. A copy for each would hold the same numbers three times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from diffusers import ModelMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

GENERATOR, TEACHER, REGULARISER = "generator", "teacher", "regulariser"


class OwnConv(nn.Conv2d):
    """A convolution whose `weight` and `bias` the generator trains, beside the frozen ones for the other roles."""

    original_weight: Tensor
    original_bias: Tensor

    def __init__(self, original: nn.Conv2d) -> None:
        super().__init__(
            original.in_channels,
            original.out_channels,
            cast("tuple[int, int]", original.kernel_size),
            cast("tuple[int, int]", original.stride),
            cast("tuple[int, int]", original.padding),
            device="meta",
        )
        assert original.bias is not None
        self.weight = nn.Parameter(original.weight.detach().float().clone())
        self.bias = nn.Parameter(original.bias.detach().float().clone())
        self.register_buffer("original_weight", original.weight.detach(), persistent=False)
        self.register_buffer("original_bias", original.bias.detach(), persistent=False)
        self.use_original = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W) with the weights of the role at work."""
        if self.use_original:
            return self._conv_forward(x, self.original_weight, self.original_bias)
        return self._conv_forward(x, self.weight, self.bias)


class RoleSwitch:
    """Says which role `module` plays, for the length of a `with` block.

    adapters: the peft adapters that act in each role; none for the plain network. `initial` is played outside of
    every block. The switch only sets what the next forward looks at: requires_grad of the adapters stays as it is.
    """

    def __init__(
        self, module: nn.Module, adapters: Mapping[str, list[str]], initial: str = GENERATOR
    ) -> None:
        self.adapters = {role: list(names) for role, names in adapters.items()}
        self._layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        self._own_convs = [layer for layer in module.modules() if isinstance(layer, OwnConv)]
        self._play(initial)

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Inside, the network is `name`; afterwards what it was before."""
        before = self.current
        self._play(name)
        try:
            yield
        finally:
            self._play(before)

    def _play(self, name: str) -> None:
        names = self.adapters[name]
        for layer in self._layers:
            # peft's set_adapter would also switch requires_grad, which must not change while a graph is recorded
            layer._active_adapter = names
            layer._disable_adapters = not names
        for conv in self._own_convs:
            conv.use_original = name != GENERATOR
        self.current = name


def checkpoint_gradients(module: ModelMixin, switch: RoleSwitch) -> None:
    """Let a diffusers model compute its blocks again in the backward pass, in the role that their forward had.

    Costs about a third more time in the networks it is used on, and saves most of their activations.
    """

    def recomputed(block: nn.Module, *args: Tensor) -> Tensor:
        role = switch.current
        return checkpoint(
            block.__call__,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in these networks is random
            context_fn=lambda: (nullcontext(), switch.role(role)),
        )

    module.enable_gradient_checkpointing(recomputed)


def fp32_norms(module: nn.Module) -> None:
    """Keep normalisation layers in fp32 where the rest is in half precision: they are small, and sums overflow."""
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            layer.to(torch.float32)
