"""What the step assumes of a MODEL's sampling: the schedule it was made for, and the timestep of the weights."""

from __future__ import annotations

import comfy.model_base
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...osediff_core.errors import OptionError
from ..notices import warn

_REMEDY = "connect the MODEL from before that node"


def check_sampling(model: ModelPatcher, timestep: int) -> None:
    """Warns of another noise at the timestep than the MODEL was made for: ModelSamplingDiscrete with zsnr, say.

    Raises OptionError where the UNet's output would be taken for something else.
    """
    now = model.get_model_object("model_sampling")
    made = comfy.model_base.model_sampling(model.model.model_config, model.model.model_type)
    if _kinds(now) != _kinds(made):
        raise OptionError(
            f"A node such as ModelSamplingDiscrete changed this MODEL's sampling to {_name(now)}, but OSEDiff's "
            f"weights are for {_name(made)}; {_REMEDY}."
        )
    sigma, expected = (sampling.get_buffer("sigmas")[timestep].item() for sampling in (now, made))
    if abs(sigma - expected) > 1e-3 * expected:
        warn(
            f"A node such as ModelSamplingDiscrete changed this MODEL's schedule: at timestep {timestep} sigma is "
            f"{sigma:.4g}, but OSEDiff's weights were trained at {expected:.4g}; {_REMEDY}."
        )


def warn_of_other_sigmas(sigmas: Tensor, begins: int, timestep: int) -> None:
    """Warns of SIGMAS (of a scheduler, say) that begin elsewhere than at the timestep of the weights, or go further."""
    if begins != timestep:
        warn(
            f"The SIGMAS begin at timestep {begins}, but OSEDiff's weights were trained at {timestep}; connect the "
            "SIGMAS of OSEDiff Sampler."
        )
    steps = len(sigmas) - 1
    if steps > 1 or bool(sigmas[-1] != 0):
        warn(
            f"The SIGMAS end at {sigmas[-1].item():.4g} after {steps} steps, but OSEDiff takes one step, to 0; "
            "connect the SIGMAS of OSEDiff Sampler."
        )


def _kinds(sampling: nn.Module) -> list[type]:
    """The classes it is made of; its own is made anew for each MODEL."""
    return list(type(sampling).__mro__[1:])


def _name(sampling: nn.Module) -> str:
    """ComfyUI's name for what the output is taken for, as EPS or V_PREDICTION."""
    return type(sampling).__bases__[-1].__name__
