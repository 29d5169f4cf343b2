"""An accelerator without one: tensors with a device, a dtype and a shape, but no values.

Whatever asks for a value raises DataDependentOutputException: on a real accelerator that place would wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from osediff_core import load
from osediff_core.backends import vae_layers
from osediff_core.backends.text import ClipPromptEncoder
from osediff_core.runtime import device, stage
from osediff_core.tiles import blend, unet
from osediff_core.tiles.vae import stage as vae_stage

_CASTS = {
    Tensor.float: torch.float32,
    Tensor.double: torch.float64,
    Tensor.half: torch.float16,
    Tensor.bfloat16: torch.bfloat16,
    Tensor.long: torch.int64,
}
FREE = 8 * 2**30


class _AnyDevice(TorchFunctionMode):
    """What asks whether this PyTorch was built for a device, before a fake tensor is asked."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode = mode

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = self._call(func, args, dict(kwargs or {}))
        if isinstance(result, FakeTensor) and result.device.type == "mps" and result.dtype == torch.float64:
            raise TypeError(f"{func} gives float64, which MPS has not")
        return result

    def _call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        is_on = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is self.mode
        if is_on and func is Tensor.to:
            tensor = args[0] if isinstance(args[0], FakeTensor) else self.mode.from_tensor(args[0])
            return _moved(tensor, *args[1:], **kwargs)
        if is_on and func is Tensor.__getitem__ and isinstance(args[0], FakeTensor):
            return _part(*args)
        if is_on and func is Tensor.__setitem__ and isinstance(args[0], FakeTensor):
            torch.ops.aten.copy_(_part(*args[:2]), torch.as_tensor(args[2]))
            return None
        if is_on and func is F.scaled_dot_product_attention:
            query, key, value = args[:3] if args else (kwargs[name] for name in ("query", "key", "value"))
            return (query @ key.transpose(-1, -2)).softmax(-1) @ value
        if is_on and func in _CASTS and isinstance(args[0], FakeTensor):
            return _moved(args[0], _CASTS[func])
        if is_on and func is F.interpolate and kwargs.get("mode", "nearest") == "nearest":
            sides = (int(side * kwargs["scale_factor"]) for side in args[0].shape[-2:])
            return args[0].new_empty(*args[0].shape[:-2], *sides)
        if is_on and func is Tensor.new_tensor and isinstance(args[0], FakeTensor):
            return _moved(torch.tensor(args[1], dtype=args[0].dtype), args[0].device)
        if is_on and func is Tensor.copy_ and isinstance(args[0], FakeTensor):
            return torch.ops.aten.copy_(*args)
        if is_on and func is Tensor.contiguous and isinstance(args[0], FakeTensor):
            layout = kwargs.get("memory_format", torch.contiguous_format)
            there = args[0].is_contiguous(memory_format=layout)
            return args[0] if there else torch.ops.aten.clone(args[0], memory_format=layout)
        return func(*args, **kwargs)


def _moved(tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
    where, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    same = where in (None, tensor.device) and dtype in (None, tensor.dtype) and layout is None
    if same and not copy:
        return tensor
    return torch.ops.aten._to_copy(tensor, device=where, dtype=dtype, memory_format=layout)


def _part(tensor: Tensor, index: Any) -> Tensor:
    """tensor[index] for numbers, slices, None, one ellipsis, and one tensor."""
    keys = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in (k for k in keys if not isinstance(k, Tensor)):
        place = next(i for i, k in enumerate(keys) if k is Ellipsis)
        named = sum(k is not None for k in keys) - 1
        keys[place : place + 1] = [slice(None)] * (tensor.dim() - named)
    dim = 0
    for key in keys:
        if isinstance(key, Tensor | list):
            where = torch.as_tensor(key, device="cpu") if isinstance(key, list) else key
            return torch.ops.aten.index(tensor, [*[None] * dim, where])
        if key is None:
            tensor = torch.ops.aten.unsqueeze(tensor, dim)
        elif isinstance(key, slice):
            tensor = torch.ops.aten.slice(tensor, dim, key.start, key.stop, key.step or 1)
        else:
            tensor = torch.ops.aten.select(tensor, dim, int(key))
            continue
        dim += 1
    return tensor


@contextmanager
def fake_device(kind: str) -> Iterator[FakeTensorMode]:
    """Inside, `kind` (cuda, mps, xpu) is a device with FREE bytes, and no tensor has values.

    The two looks at values that a picture is worth are answered: whether a stage's result is finite, and whether a
    VAE's attention does nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "_available", lambda name: name in ("cpu", kind))
        patch.setattr(device, "_has_index", lambda parsed: True)
        patch.setattr(stage, "is_finite", lambda result: True)
        patch.setattr(vae_layers, "_gives_zeros", lambda linear: False)
        for module in (unet, vae_stage):
            patch.setattr(module, "free_memory", lambda where: FREE)
        for module in (blend, vae_stage):
            patch.setattr(module, "release_memory", lambda where: None)
        for name in ("load_base", "read_weights", "merge_weights"):  # files have values
            patch.setattr(load, name, real(getattr(load, name)))
        tokenize = ClipPromptEncoder.tokenize
        patch.setattr(
            ClipPromptEncoder, "tokenize", lambda text, prompts: mode.from_tensor(tokenize(text, prompts))
        )
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            # every build of PyTorch lets fake tensors be on these
            with nullcontext() if kind in ("cpu", "cuda") else _AnyDevice(mode):
                yield mode


def real(function: Callable) -> Callable:
    def outside(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return outside
