"""Putting OSEDiff's LoRA on a base: does it fit, and merging it into the weights with a strength."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, OptionError, some_of
from .lora_targets import unet_targets
from .one_step_weights import LoRAPair, OSEDiffWeights

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

LORA_ALPHA = 8  # peft's default; the official code never sets it and its checkpoints do not store it


def lora_scale(rank: int) -> float:
    """Factor of B @ A: lora_alpha / rank = 8 / rank (2.0 at the official rank 4)."""
    return LORA_ALPHA / rank


def expected_shapes(weight: Shape, rank: int) -> tuple[Shape, Shape] | None:
    """Shapes of (A, B) at this rank for a Linear's (out, in) or Conv2d's (out, in, kh, kw) weight; else None."""
    if len(weight) not in (2, 4):
        return None
    out_features, *rest = weight
    return (rank, *rest), (out_features, rank, *[1] * (len(weight) - 2))


def layer_shapes(model: nn.Module) -> dict[str, Shape]:
    """The weight's shape of every layer that can take LoRA (Linear, Conv2d), by module name."""
    layers = (nn.Linear, nn.Conv2d)
    return {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, layers)}


def check_fits(weights: OSEDiffWeights, unet: Mapping[str, Shape], vae: Mapping[str, Shape]) -> None:
    """Compare every tensor of the weights with the base's layers; nothing is changed.

    unet, vae: the shape of each layer's weight by diffusers' module name, as `layer_shapes` gives it.
    Raises one CheckpointError that counts, and names up to five each: missing tensors (promised by the file's lists),
    unexpected ones (unknown to its lists, or for modules that the base lacks) and those of another shape.
    """
    unexpected, misshapen = list(weights.unexpected), []
    for part, layers, pairs, rank in (
        ("unet", unet, weights.unet_lora, weights.rank_unet),
        ("vae", vae, weights.vae_lora, weights.rank_vae),
    ):
        for name, pair in pairs.items():
            shapes = expected_shapes(layers[name], rank) if name in layers else None
            for factor, tensor, shape in zip("AB", pair, shapes or (None, None), strict=True):
                tensor_name = f"{part} {name}.lora_{factor}"
                if shape is None:
                    unexpected.append(tensor_name)
                elif tuple(tensor.shape) != shape:
                    misshapen.append(f"{tensor_name} is {tuple(tensor.shape)} and should be {shape}")
    first = unet.get("conv_in")
    known = {} if first is None else {"weight": first, "bias": first[:1]}
    for name, tensor in weights.conv_in.items():
        if name not in known:
            unexpected.append(f"unet conv_in.{name}")
        elif tuple(tensor.shape) != known[name]:
            misshapen.append(f"unet conv_in.{name} is {tuple(tensor.shape)} and should be {known[name]}")
    if weights.missing or unexpected or misshapen:
        raise _misfit(weights, unexpected, misshapen)
    _warn_of_gaps(weights, unet)


def _misfit(weights: OSEDiffWeights, unexpected: list[str], misshapen: list[str]) -> CheckpointError:
    kinds = {"missing": weights.missing, "unexpected": unexpected, "of another shape": misshapen}
    report = [f"{len(names)} {kind} ({some_of(names)})" for kind, names in kinds.items() if names]
    logger.debug("all tensors that do not fit: %s", kinds)
    made_for = weights.metadata.get("base", "unknown")
    base = "the base they were made for" if made_for == "unknown" else f"their base ({made_for})"
    return CheckpointError(
        f"{weights.source} does not fit this base, so nothing was loaded; use it with {base} or, "
        f"if that is this one, download or export it again; tensors: {'; '.join(report)}."
    )


def _warn_of_gaps(weights: OSEDiffWeights, unet: Mapping[str, Shape]) -> None:
    """Weights may adapt fewer modules than the official ones by intention; by accident it must be noticed."""
    official = unet_targets(f"{name}.weight" for name in unet)
    gaps = [name for modules in official.values() for name in modules if name not in weights.unet_lora]
    if gaps and weights.unet_lora:
        logger.warning(
            "%s adapts %d modules of the UNet fewer than the official rules: %s",
            weights.source,
            len(gaps),
            ", ".join(gaps),
        )


class MergedAdapter:
    """LoRA, and whole replaced parameters, merged into a module's weights with a strength s to be changed.

    W(s) = W0 + s (W_new - W0 + scale B @ A), where W_new is the replacement (W0 itself if there is none).
    Each layer is computed from the untouched W0 in fp32 and rounded once, to the parameter's dtype: s = 0
    gives W0 itself, rounded, s = 1 the official merge, any other s interpolates or extrapolates, and changes
    never add up rounding errors.

    W0 stays as and where it was when the adapter was made (in a memory-mapped file, say), whatever becomes of
    the module; the parameters' data are replaced, not written into. At s = 0 a parameter may share its memory
    with W0: do not write into the module's weights in place while the adapter is in use.

    `pairs`: module name -> LoRAPair; `replacements`: parameter name (e.g. "conv_in.weight") -> tensor.
    `dtype`: what the parameters named by these two become now, their own if None; a later change of the
    strength keeps the dtype and device that they then have. `keep_base=False` lets go of each W0 once merged,
    which fixes the strength. Raises CheckpointError, before anything changes, for names or shapes that the
    module does not have.
    """

    def __init__(
        self,
        module: nn.Module,
        pairs: Mapping[str, LoRAPair],
        scale: float,
        replacements: Mapping[str, Tensor] | None = None,
        *,
        strength: float = 1.0,
        keep_base: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.keep_base = keep_base
        self._module = module
        self._scale = float(scale)
        self._pairs = {f"{name}.weight": pair for name, pair in pairs.items()}
        self._replacements = dict(replacements or {})
        parameters = dict(module.named_parameters())
        names = list(dict.fromkeys([*self._pairs, *self._replacements]))
        self._check(parameters, names)
        self._names = names
        self._base = {name: parameters[name].data for name in names} if keep_base else {}
        self._strength = 0.0
        self._apply(_finite(strength), dtype)
        if not keep_base:  # nothing to compute from any more
            self._pairs, self._replacements = {}, {}

    @property
    def strength(self) -> float:
        """s as above; setting it recomputes the weights. OptionError: not finite, or base not kept."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        value = _finite(value)
        if value == self._strength:
            return
        if not self.keep_base:
            raise OptionError(
                f"The strength is fixed at {self._strength:g}, as the base's weights were not kept; "
                "load with keep_base=True."
            )
        self._apply(value)

    def _check(self, parameters: Mapping[str, nn.Parameter], names: list[str]) -> None:
        faults = []
        for name in names:
            parameter, pair, new = parameters.get(name), self._pairs.get(name), self._replacements.get(name)
            shape = tuple(parameter.shape) if parameter is not None else ()
            if parameter is None:
                faults.append(f"{name} is not in the module")
            elif new is not None and new.shape != parameter.shape:
                faults.append(f"{name} is {shape}, its replacement {tuple(new.shape)}")
            elif pair is not None and not _multiplies_to(pair, parameter.shape):
                faults.append(f"{name} is {shape}, its LoRA {tuple(pair.A.shape)} and {tuple(pair.B.shape)}")
        if faults:
            raise CheckpointError(
                f"The LoRA does not fit the model, so nothing was changed: {'; '.join(faults)}."
            )

    def _apply(self, strength: float, dtype: torch.dtype | None = None) -> None:
        parameters = dict(self._module.named_parameters())  # anew: moving a module may make new Parameters
        before = {name: (parameters[name].device, parameters[name].dtype) for name in self._names}
        # A graph node may run in inference mode, whose tensors could never be trained or patched afterwards.
        with torch.inference_mode(False), torch.no_grad():
            try:
                for name in self._names:
                    parameter = parameters[name]
                    weight = self._weight(name, parameter, strength, dtype or parameter.dtype)
                    parameter.data = weight.contiguous(memory_format=_layout(parameter))
            except BaseException:
                for name, base in self._base.items():  # half old, half new would be neither
                    parameters[name].data = base.to(*before[name])
                self._strength = 0.0
                raise
        self._strength = strength

    def _weight(self, name: str, parameter: nn.Parameter, strength: float, dtype: torch.dtype) -> Tensor:
        """W(s) of one parameter on its present device."""
        base = self._base.get(name, parameter.data)
        if strength == 0:
            return base.to(parameter.device, dtype)
        exact = {"device": parameter.device, "dtype": torch.promote_types(base.dtype, torch.float32)}
        weight = base.to(**exact, copy=True)
        new = self._replacements.get(name)
        if new is not None:  # this form is exact at s = 1, W0 + s (W_new - W0) would not be
            weight.mul_(1 - strength).add_(new.to(**exact), alpha=strength)
        pair = self._pairs.get(name)
        if pair is not None:
            delta = pair.B.to(**exact).flatten(1) @ pair.A.to(**exact).flatten(1)  # (out, r) @ (r, in kh kw)
            weight.add_(delta.view_as(weight), alpha=strength * self._scale)
        return weight.to(dtype)


def merge_weights(
    weights: OSEDiffWeights,
    unet: nn.Module,
    vae: nn.Module,
    *,
    strength: tuple[float, float] = (1.0, 1.0),
    keep_base: bool = True,
    dtype: torch.dtype | None = None,
) -> tuple[MergedAdapter, MergedAdapter]:
    """Check that the weights fit, then merge them: (UNet's adapter, VAE's adapter), `strength` in the same order.

    keep_base, dtype: as in MergedAdapter.
    """
    check_fits(weights, layer_shapes(unet), layer_shapes(vae))
    for_unet, for_vae = ({"strength": _finite(s), "keep_base": keep_base, "dtype": dtype} for s in strength)
    conv_in = {f"conv_in.{name}": tensor for name, tensor in weights.conv_in.items()}
    scale_unet, scale_vae = lora_scale(weights.rank_unet), lora_scale(weights.rank_vae)
    return (
        MergedAdapter(unet, weights.unet_lora, scale_unet, conv_in, **for_unet),
        MergedAdapter(vae, weights.vae_lora, scale_vae, **for_vae),
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


def _multiplies_to(pair: LoRAPair, shape: torch.Size) -> bool:
    a, b = pair
    return (
        a.ndim == b.ndim == len(shape) >= 2
        and b.shape[1] == a.shape[0]
        and b.shape[0] == shape[0]
        and a.shape[1:] == shape[1:]
        and b.shape[2:].numel() == 1
    )
