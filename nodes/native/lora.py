"""OSEDiff's weights as ComfyUI patches on a MODEL and a VAE.

The patches add to those that are there, so other LoRAs, quantised loaders and ComfyUI's memory management work
together with them; the loaded weights themselves are never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_base
import comfy.model_patcher
import comfy.sd
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...osediff_core.errors import BaseModelError, CheckpointError, OptionError
from ...osediff_core.method import Method
from ...osediff_core.passes import ONE_PASS, Pass
from ...osediff_core.weights.fit import check_fits
from ...osediff_core.weights.formats import facts_of
from ...osediff_core.weights.one_step_weights import LoRAPair, OneStepWeights
from ...osediff_core.weights.tensor_file import Shape
from ..notices import warn
from ..sources import follow_sampling
from .names import unet_names, vae_names
from .vae import network_of

_PREFIX = "diffusion_model."
_KEY = "osediff"
_PREDICTS = {
    comfy.model_base.ModelType.EPS: "epsilon",
    comfy.model_base.ModelType.V_PREDICTION: "v_prediction",
}


@dataclass(frozen=True)
class Attachment:
    """Facts of the weights on a patched MODEL or VAE, which it carries along, whatever is done to it afterwards.

    source, timestep, rule: of the weights. patches: what was added to it, at `strength`, but for the LoRA of a UNet,
    which is in `sets` by the names that the weights give them. method: facts of it. sliders: its sliders as they are
    set. waiting: weights that have yet to be made for a picture, of which nothing is on it before; and their strength.
    """

    source: str
    timestep: int
    rule: str
    patches: tuple[dict[str, Any], ...]
    strength: float
    method: Method
    sets: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sliders: Mapping[str, float] = field(default_factory=dict)
    waiting: tuple[OneStepWeights, float] | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes of the prediction, by the sliders; prompts, and guidance by them, are the guider's business.

        Raises OptionError for weights that have yet to be made for a picture.
        """
        self.check_made()
        passes = self.method.passes(**self.method.settle(self.sliders))
        return ONE_PASS if any(one.prompt is not None for one in passes) else passes

    def check_made(self) -> None:
        """Raises OptionError for weights that have yet to be made for a picture."""
        if self.waiting is not None:
            raise OptionError(
                f"{self.method.title} makes its weights for each picture; put Fit to Picture behind the loader, and "
                "connect both of its outputs."
            )


def attachment_of(
    patcher: comfy.model_patcher.ModelPatcher, finding: str = "This MODEL has no OSEDiff weights"
) -> Attachment:
    """The attachment of a MODEL, or of a VAE's patcher.

    Raises OptionError, which begins with `finding`, if it has not been applied.
    """
    found = patcher.get_attachment(_KEY)
    if found is None:
        raise OptionError(f"{finding}; choose some in Load OSEDiff, or put Apply OSEDiff behind its loader.")
    return found


def check_made(vae: comfy.sd.VAE) -> None:
    """Raises OptionError for a VAE whose weights have yet to be made for a picture."""
    found = vae.patcher.get_attachment(_KEY)
    if found is not None:
        found.check_made()


def scale_weights(
    model: comfy.model_patcher.ModelPatcher, vae: comfy.sd.VAE, unet_factor: float, vae_factor: float
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE]:
    """The MODEL and the VAE on which OSEDiff acts so many times as strongly; the ones given stay as they are.

    Raises OptionError if it has not been applied to both.
    """
    adapted = copy.copy(vae)
    of_vae = attachment_of(vae.patcher, "This VAE has no OSEDiff weights")
    adapted.patcher = _scaled(vae.patcher, of_vae, vae_factor)
    return _scaled(model, attachment_of(model), unet_factor), adapted


def _scaled(
    patcher: comfy.model_patcher.ModelPatcher, found: Attachment, factor: float
) -> comfy.model_patcher.ModelPatcher:
    patcher = patcher.clone()
    if factor != 1:  # the same patches once more: strengths of patches add up
        _attach(patcher, replace(found, strength=found.strength * factor), found.strength * (factor - 1))
    return patcher


def _attach(patcher: comfy.model_patcher.ModelPatcher, attachment: Attachment, added: float) -> None:
    """added: the strength at which its patches are added now."""
    for part in (*attachment.patches, *attachment.sets.values()):
        patcher.add_patches(part, added)
    patcher.set_attachments(_KEY, attachment)


def set_sliders(
    model: comfy.model_patcher.ModelPatcher, numbers: Mapping[str, float]
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL with its method's sliders at these numbers; the one given stays as it is.

    Raises OptionError for a method without them.
    """
    found = attachment_of(model)
    model = model.clone()
    model.set_attachments(_KEY, replace(found, sliders=found.method.settle(numbers)))
    return model


def with_sets(
    patcher: comfy.model_patcher.ModelPatcher, names: tuple[str, ...]
) -> comfy.model_patcher.ModelPatcher:
    """A clone on which only the LoRA sets of these names act, and whatever else there is."""
    found = attachment_of(patcher)
    patcher = patcher.clone()
    for name, patches in found.sets.items():
        if name not in names:
            patcher.add_patches(patches, -found.strength)  # strengths of patches add up
    return patcher


def apply_weights(
    model: comfy.model_patcher.ModelPatcher,
    vae: comfy.sd.VAE,
    weights: OneStepWeights,
    unet_strength: float = 1.0,
    vae_strength: float = 1.0,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE]:
    """The MODEL and the VAE with OSEDiff's LoRA and `conv_in`; the ones given stay as they are.

    With strength s a weight becomes W0 + s (W_new - W0 + scale B @ A): 1 is the official result, 0 the base. Weights of
    this kind that are there are replaced, with a warning: a step of two of them is none.
    Raises CheckpointError or BaseModelError, before anything is changed, if they do not belong together.
    """
    if weights.network:
        raise CheckpointError(
            f"{weights.source} is a network of its own and not for a base; load it by Load One-Step Upscaler."
        )
    names = _checked_unet_names(model, weights)
    levels = _levels(vae)
    of_vae = vae_names(list(weights.vae_lora), levels)
    check_fits(weights, _unet_shapes(model, names), _vae_shapes(vae, of_vae))
    if weights.extra:
        return _waiting(model, vae, weights, unet_strength, vae_strength)

    model = _without(model.clone(), "MODEL", weights.source)
    base = model.get_key_patches(f"{_PREFIX}{names['conv_in.weight'].rpartition('.')[0]}.")
    differences = {
        key: ("diff", (tensor.float() - base[key][0][0].to("cpu", tensor.float().dtype),))
        for name, tensor in weights.conv_in.items()
        for key in [_PREFIX + names[f"conv_in.{name}"]]
    }
    sets = {
        lora.name: {
            _PREFIX + names[f"{name}.weight"]: _adapter(pair, lora.scale) for name, pair in lora.items()
        }
        for lora in weights.unet_sets
    }
    facts = (weights.source, weights.timestep, weights.rule)
    method = facts_of(weights.method)
    _attach(model, Attachment(*facts, (differences,), unet_strength, method, sets), unet_strength)
    follow_sampling(model)

    vae = copy.copy(vae)
    vae.patcher = _without(vae.patcher.clone(), "VAE", weights.source)
    scale = weights.vae_lora.scale
    of_encoder = {of_vae[name]: _adapter(pair, scale) for name, pair in weights.vae_lora.items()}
    _attach(vae.patcher, Attachment(*facts, (of_encoder,), vae_strength, method), vae_strength)
    return model, vae


def _waiting(
    model: comfy.model_patcher.ModelPatcher,
    vae: comfy.sd.VAE,
    weights: OneStepWeights,
    unet_strength: float,
    vae_strength: float,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE]:
    """MODEL and VAE that hold weights ready for `fit_weights`."""
    vae = copy.copy(vae)
    made = []
    for kind, patcher, strength in (("MODEL", model, unet_strength), ("VAE", vae.patcher, vae_strength)):
        patcher = _without(patcher.clone(), kind, weights.source)
        about = facts_of(weights.method)
        facts = Attachment(
            weights.source, weights.timestep, weights.rule, (), 0.0, about, waiting=(weights, strength)
        )
        patcher.set_attachments(_KEY, facts)
        made.append(patcher)
    model, vae.patcher = made
    return model, vae


def fit_weights(
    model: comfy.model_patcher.ModelPatcher, vae: comfy.sd.VAE, image: Tensor
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE]:
    """MODEL and VAE with the weights that their method makes for image (1, 3, h, w) in [-1, 1].

    Raises OptionError for weights that are the same for all pictures, or that are not of the same file.
    """
    of_model, of_vae = (
        attachment_of(model).waiting,
        attachment_of(vae.patcher, "This VAE has no OSEDiff weights").waiting,
    )
    prepare = attachment_of(model).method.prepare
    if of_model is None or of_vae is None or prepare is None or of_model[0] is not of_vae[0]:
        raise OptionError(
            "MODEL and VAE hold no weights that are made for each picture; connect those of one Load OSEDiff or Apply "
            "OSEDiff with S3Diff's weights, and no such node twice."
        )
    weights = of_model[0]
    sets, vae_lora = prepare(weights)(image)
    fitted = replace(weights, unet_sets=tuple(sets), vae_lora=vae_lora, extra={})
    return apply_weights(model, vae, fitted, of_model[1], of_vae[1])


def _without(
    patcher: comfy.model_patcher.ModelPatcher, kind: str, new: str
) -> comfy.model_patcher.ModelPatcher:
    """The patcher itself, one-step weights that are on it taken off, and other patches kept."""
    found = patcher.get_attachment(_KEY)
    if found is None:
        return patcher
    if found.strength != 0:  # at 0 it is the base alone, as a workflow may want it
        warn(
            f"The {kind} had one-step weights already ({found.source} at strength {found.strength:g}), which {new} "
            f"replaces; choose none in Load OSEDiff, or take Apply OSEDiff out."
        )
    own = {id(patch) for part in (*found.patches, *found.sets.values()) for patch in part.values()}
    for key, patches in patcher.patches.items():
        patcher.patches[key] = [patch for patch in patches if id(patch[1]) not in own]
    patcher.patches = {key: patches for key, patches in patcher.patches.items() if patches}
    return patcher


def _adapter(pair: LoRAPair, scale: float) -> LoRAAdapter:
    """scale B @ A as ComfyUI computes it from (up, down, alpha, mid, DoRA, reshape): its scale is alpha / rank."""
    alpha = scale * pair.A.shape[0]
    return LoRAAdapter(set(), (pair.B.float(), pair.A.float(), alpha, None, None, None))


def _checked_unet_names(model: comfy.model_patcher.ModelPatcher, weights: OneStepWeights) -> dict[str, str]:
    """diffusers' tensor names to ComfyUI's, of a base that OSEDiff can be put on."""
    names = unet_names(model.model.model_config.unet_config)
    if not names:
        raise BaseModelError(
            f"This MODEL is a {type(model.model).__name__}, not Stable Diffusion's UNet; use SD 2.1-base."
        )
    predicts = _PREDICTS.get(model.model.model_type, str(model.model.model_type.name).lower())
    if predicts != weights.prediction_type:
        kind = "a v-prediction model (as the 768-pixel SD 2.1 is)" if predicts == "v_prediction" else predicts
        raise BaseModelError(
            f"This MODEL is {kind}, but {weights.source} is for one that predicts {weights.prediction_type}; "
            "use SD 2.1-base, the 512-pixel model."
        )
    return names


def _unet_shapes(model: comfy.model_patcher.ModelPatcher, names: dict[str, str]) -> dict[str, Shape]:
    tensors = model.model.diffusion_model.state_dict()
    shapes = {
        name.removesuffix(".weight"): tuple(tensors[key].shape)
        for name, key in names.items()
        if name.endswith(".weight") and key in tensors
    }
    return {name: shape for name, shape in shapes.items() if len(shape) in (2, 4)}


def _vae_shapes(vae: comfy.sd.VAE, names: dict[str, str]) -> dict[str, Shape]:
    """Shapes as diffusers has them, where attention is linear; ComfyUI's is a 1x1 convolution."""
    tensors = network_of(vae).state_dict()
    shapes = {name: tuple(tensors[key].shape) for name, key in names.items() if key in tensors}
    return {
        name: shape[:2] if ".attentions." in name and shape[2:] == (1, 1) else shape
        for name, shape in shapes.items()
    }


def _levels(vae: comfy.sd.VAE) -> int:
    levels = getattr(getattr(vae.first_stage_model, "encoder", None), "num_resolutions", None)
    if levels is None:
        raise BaseModelError(
            f"This VAE is a {type(vae.first_stage_model).__name__}, not Stable Diffusion's AutoencoderKL; use "
            "the one of SD 2.1-base."
        )
    return levels
