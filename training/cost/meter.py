"""Meter of a program on tensors without numbers: what it would allocate, hold at most at once, and compute."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Meter(TorchDispatchMode):
    """Inside, counts the bytes of every storage that an operation makes until it is gone, and what is computed.

    held: bytes at this moment; peak: the most since `reset`. What an operation needs only while it runs is not seen.
    flops: by the formulas of torch's FlopCounterMode, 2 a multiply-add. (The mode itself follows modules by hooks that
    keep tensors alive, which would count as memory.)
    A decision on a value that tensors without numbers have not (is this finite?) goes as for True or 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = self.flops = 0
        self._known: dict[int, weakref.ref] = {}

    def reset(self) -> None:
        """Seek the peak from here on."""
        self.peak = self.held

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation of torch
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.ops.aten._local_scalar_dense.default:
            return args[0].dtype == torch.bool or 1
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            del self._known[key]
            self.held -= size

        self._known[key] = weakref.ref(storage, gone)
        self.held += size
        self.peak = max(self.peak, self.held)


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Inside, the CPU computes as CUDA does: with fused attention, and under autocast with norms in fp32."""
    attention, norms = F.scaled_dot_product_attention, (F.group_norm, F.layer_norm)

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        if attn_mask is not None:
            return attention(query, key, value, attn_mask, *args, **kwargs)
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(query, key, value, None, torch.is_grad_enabled())[0]

    def precise(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def computed(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
            if torch.is_autocast_enabled("cpu"):
                args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
            return norm(*args, **kwargs)

        return computed

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", fused))
        for norm in norms:
            stack.enter_context(mock.patch.object(F, norm.__name__, precise(norm)))
        yield
