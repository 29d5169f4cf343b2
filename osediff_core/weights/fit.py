"""The check that weights fit a base, before anything is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import nn

from ..errors import CheckpointError, counted
from .lora_targets import unet_targets
from .one_step_weights import OneStepWeights
from .tensor_file import Shape

logger = logging.getLogger(__name__)

_PROMPT = "attn2.to_k"
_MODELS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    2048: "SDXL",
}  # by the prompts' features


def layer_shapes(model: nn.Module) -> dict[str, Shape]:
    """The weight's shape of every layer that can take LoRA (Linear, Conv2d), by module name."""
    layers = (nn.Linear, nn.Conv2d)
    return {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, layers)}


def check_fits(weights: OneStepWeights, unet: Mapping[str, Shape], vae: Mapping[str, Shape]) -> None:
    """Compare every tensor of the weights with the base's layers; nothing is changed.

    unet, vae: the shape of each layer's weight by diffusers' module name, as `layer_shapes` gives it.
    Raises one CheckpointError that counts, and names up to five each: missing tensors (promised by the file's lists),
    unexpected ones (unknown to its lists, or for modules that the base lacks) and those of another shape.
    """
    _check_same_model(weights, unet)
    unexpected, misshapen = list(weights.unexpected), []

    def check(name: str, found: Shape, wanted: Shape | None) -> None:
        if wanted is None:
            unexpected.append(name)
        elif found != wanted:
            misshapen.append(f"{name} is {found} and should be {wanted}")

    sets = [("unet", unet, lora) for lora in weights.unet_sets] + [("vae", vae, weights.vae_lora)]
    for part, layers, lora in sets:
        for module, pair in lora.items():
            wanted = _factor_shapes(layers.get(module), lora.rank)
            for factor, tensor, shape in zip("AB", pair, wanted, strict=True):
                check(f"{part} {module}.lora_{factor}", tuple(tensor.shape), shape)
    first = unet.get("conv_in")
    known = {} if first is None else {"weight": first, "bias": first[:1]}
    for name, tensor in weights.conv_in.items():
        check(f"unet conv_in.{name}", tuple(tensor.shape), known.get(name))
    kinds = {"missing": weights.missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(kinds.values()):
        logger.debug("all tensors that do not fit: %s", kinds)
        made_for = weights.metadata.get("base", "unknown")
        base = "the base they were made for" if made_for == "unknown" else f"their base ({made_for})"
        raise CheckpointError(
            f"{weights.source} does not fit this base, so nothing was loaded; use it with {base} or, "
            f"if that is this one, download or export it again; tensors: {counted(kinds)}."
        )
    _warn_of_gaps(weights, unet)


def _check_same_model(weights: OneStepWeights, unet: Mapping[str, Shape]) -> None:
    """Models differ first in how wide the prompts are that they read; that says more than hundreds of shapes."""
    reads = {shape[1] for name, shape in unet.items() if name.endswith(_PROMPT) and len(shape) == 2}
    trained = {
        pair.A.shape[1]
        for lora in weights.unet_sets
        for name, pair in lora.items()
        if name.endswith(_PROMPT) and pair.A.ndim == 2
    }
    if len(reads) == len(trained) == 1 and reads != trained:
        raise CheckpointError(
            f"{weights.source} does not fit this base: it is for {_model(*trained)}, and the base is "
            f"{_model(*reads)}; use weights and a base that belong together."
        )


def _model(width: int) -> str:
    return _MODELS.get(width, f"a model that reads prompts of {width} features")


def _factor_shapes(weight: Shape | None, rank: int) -> tuple[Shape | None, Shape | None]:
    """Shapes of A and B at this rank for a Linear's (out, in) or Conv2d's (out, in, kh, kw) weight; else None."""
    if weight is None or len(weight) not in (2, 4):
        return None, None
    out_features, *rest = weight
    return (rank, *rest), (out_features, rank, *[1] * (len(weight) - 2))


def _warn_of_gaps(weights: OneStepWeights, unet: Mapping[str, Shape]) -> None:
    """OSEDiff's weights may adapt fewer modules than the official ones by intention; by accident it must be noticed."""
    if not weights.unet_groups or not weights.unet_lora:
        return
    official = unet_targets(f"{name}.weight" for name in unet)
    gaps = [name for modules in official.values() for name in modules if name not in weights.unet_lora]
    if gaps:
        logger.warning(
            "%s adapts %d modules of the UNet fewer than the official rules: %s",
            weights.source,
            len(gaps),
            ", ".join(gaps),
        )
