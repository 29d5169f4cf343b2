"""The merge of LoRA into a base's weights, with a strength that can be changed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .fit import check_fits, layer_shapes
from .mapped import Mapped
from .one_step_weights import LoRAPair, LoRASet, OneStepWeights

_PIECE = 2**19  # values computed at a time on the CPU: what stays in its cache
_ROWS = 16  # a piece has a multiple of these rows, for which matrix products round as they do for the whole matrix


class MergedAdapter:
    """LoRA, and whole replaced parameters, merged into a module's weights with a strength s to be changed.

    W(s) = W0 + s (W_new - W0 + scale B @ A), where W_new is the replacement (W0 itself if there is none), and
    scale B @ A the sum over the sets.
    Each layer is computed from the untouched W0 in fp32 and rounded once, to the parameter's dtype: s = 0
    gives W0 itself, rounded, s = 1 the official merge, any other s interpolates or extrapolates, and changes
    never add up rounding errors.

    `select` lets only some of the sets act.

    W0 stays as and where it was when the adapter was made (in a memory-mapped file, say), whatever becomes of
    the module; the parameters' data are replaced, not written into. At s = 0 a parameter may share its memory
    with W0: do not write into the module's weights in place while the adapter is in use.

    `sets`: must fit the module (`fit.check_fits`); `replacements`: parameter name (e.g. "conv_in.weight") -> tensor.
    `dtype`, `layout`: what the parameters named by these two become now, their own if None (the layout of those with
    four dimensions); a later change of the strength keeps the dtype, device and layout that they then have.
    `keep_base=False` lets go of each W0 once merged, which fixes the strength. Pages of a mapped W0 are given back to
    the system as each is merged, kept or not.
    """

    def __init__(
        self,
        module: nn.Module,
        sets: Iterable[LoRASet],
        replacements: Mapping[str, Tensor] | None = None,
        *,
        strength: float = 1.0,
        keep_base: bool = True,
        dtype: torch.dtype | None = None,
        layout: torch.memory_format | None = None,
    ) -> None:
        self.keep_base = keep_base
        self._module = module
        self._updates = _updates_of(sets)
        self._selected: frozenset[str] | None = None
        self._replacements = dict(replacements or {})
        self._names = list(dict.fromkeys([*self._updates, *self._replacements]))
        parameters = dict(module.named_parameters())
        self._base = {name: parameters[name].data for name in self._names} if keep_base else {}
        self._strength = 0.0
        self._apply(_finite(strength), dtype, layout)
        if not keep_base:  # nothing to compute from any more
            self._updates, self._replacements = {}, {}

    @property
    def strength(self) -> float:
        """s as above; setting it recomputes the weights. OptionError: not finite, or base not kept."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        value = _finite(value)
        if value != self._strength:
            self._check_base_is_kept()
            self._apply(value)

    def replace_sets(self, sets: Iterable[LoRASet]) -> None:
        """Other sets for the same modules, merged at once. OptionError if the base was not kept."""
        self._check_base_is_kept()
        self._updates = _updates_of(sets)
        self._apply(self._strength)

    def select(self, names: Collection[str] | None) -> None:
        """Let the sets of these names act, and no others; None: all. OptionError if the base was not kept."""
        chosen = None if names is None else frozenset(names)
        if chosen != self._selected:
            self._check_base_is_kept()
            self._selected = chosen
            self._apply(self._strength)

    def _check_base_is_kept(self) -> None:
        if not self.keep_base:
            raise OptionError(
                f"The strength is fixed at {self._strength:g}, as the base's weights were not kept; "
                "load with keep_base=True."
            )

    def _apply(
        self, strength: float, dtype: torch.dtype | None = None, layout: torch.memory_format | None = None
    ) -> None:
        parameters = dict(self._module.named_parameters())  # anew: moving a module may make new Parameters
        before = {name: (parameters[name].device, parameters[name].dtype) for name in self._names}
        mapped = Mapped.now()
        # A graph node may run in inference mode, whose tensors could never be trained or patched afterwards.
        with torch.inference_mode(False), torch.no_grad():
            try:
                for name in self._names:
                    parameter = parameters[name]
                    base = self._base.get(name, parameter.data)
                    form = layout if layout is not None and base.dim() == 4 else _layout(parameter)
                    weight = self._weight(
                        name, base, parameter.device, strength, dtype or parameter.dtype, form
                    )
                    parameter.data = weight.contiguous(memory_format=form)
                    mapped.let_go(base)
            except BaseException:
                for name, base in self._base.items():  # half old, half new would be neither
                    parameters[name].data = base.to(*before[name])
                self._strength = 0.0
                raise
        self._strength = strength

    def _weight(
        self,
        name: str,
        base: Tensor,
        device: torch.device,
        strength: float,
        dtype: torch.dtype,
        layout: torch.memory_format,
    ) -> Tensor:
        """W(s) of one parameter, a piece of its rows after the other, so that memory is passed through once."""
        if strength == 0:
            return base.to(device, dtype)
        exact = {"device": device, "dtype": torch.promote_types(base.dtype, torch.float32)}
        new = self._replacements.get(name)
        factors = [
            (pair.B.to(**exact).flatten(1), pair.A.to(**exact).flatten(1), strength * lora.scale)
            for pair, lora in self._updates.get(name, ())
            if self._selected is None or lora.name in self._selected
        ]
        result = torch.empty(base.shape, dtype=dtype, device=device, memory_format=layout)
        for rows in _pieces(base, device):
            weight = base[rows].to(**exact, copy=True)
            if new is not None:  # this form is exact at s = 1, W0 + s (W_new - W0) would not be
                weight.mul_(1 - strength).add_(new[rows].to(**exact), alpha=strength)
            for left, right, scale in factors:
                delta = left[rows] @ right  # (rows, r) @ (r, in kh kw)
                weight.add_(delta.view_as(weight), alpha=scale)
            result[rows] = weight
        return result


def _pieces(tensor: Tensor, device: torch.device) -> list[slice]:
    """Rows of a tensor that are computed together: on an accelerator all of them."""
    length = tensor.shape[0]
    row = max(1, tensor.numel() // max(1, length))
    count = max(_ROWS, _PIECE // row // _ROWS * _ROWS) if device.type == "cpu" else max(1, length)
    return [slice(start, start + count) for start in range(0, length, count)]


def _updates_of(sets: Iterable[LoRASet]) -> dict[str, list[tuple[LoRAPair, LoRASet]]]:
    """Parameter -> pairs and the sets that they are of."""
    updates: dict[str, list[tuple[LoRAPair, LoRASet]]] = {}
    for lora in sets:
        for name, pair in lora.items():
            updates.setdefault(f"{name}.weight", []).append((pair, lora))
    return updates


def merge_weights(
    weights: OneStepWeights,
    unet: nn.Module,
    vae: nn.Module,
    *,
    strength: tuple[float, float] = (1.0, 1.0),
    keep_base: bool = True,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format | None = None,
) -> tuple[MergedAdapter, MergedAdapter]:
    """Check that the weights fit, then merge them: (UNet's adapter, VAE's adapter), `strength` in the same order.

    keep_base, dtype, layout: as in MergedAdapter.
    """
    check_fits(weights, layer_shapes(unet), layer_shapes(vae))
    how = {"keep_base": keep_base, "dtype": dtype, "layout": layout}
    for_unet, for_vae = ({"strength": _finite(s), **how} for s in strength)
    conv_in = {f"conv_in.{name}": tensor for name, tensor in weights.conv_in.items()}
    return (
        MergedAdapter(unet, weights.unet_sets, conv_in, **for_unet),
        MergedAdapter(vae, [weights.vae_lora], **for_vae),
    )


def _finite(strength: float) -> float:
    if not math.isfinite(strength):
        raise OptionError(
            f"The strength {strength} is not a finite number; 1 is the official result, 0 the base."
        )
    return float(strength)


def _layout(tensor: Tensor) -> torch.memory_format:
    """Channels-last if the tensor is that and not also contiguous."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
