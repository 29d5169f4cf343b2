"""Loading of whatever restores: a base with weights on it, or a method that is a network by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import OptionError
from ..generator import OneStepGenerator
from ..runtime.device import parse_device, parse_dtype
from ..weights.checkpoint import read_decoder, weights_in
from ..weights.decoder_file import DecoderWeights
from ..weights.formats import facts_of, format_of
from ..weights.one_step_weights import OneStepWeights
from ..weights.tensor_file import TensorFile
from .adcsr import AdcSR, build
from .restorer import DirectRestorer

if TYPE_CHECKING:
    Restorer = OneStepGenerator | DirectRestorer

# method -> its network of its weights and of the decoder that comes in a file of its own
NETWORKS: dict[str, Callable[[OneStepWeights, DecoderWeights | None], AdcSR]] = {"adcsr": build}


def load_model(
    base: str | Path = "tiny",
    weights: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    strength: float | tuple[float, float] = 1.0,
    fidelity: float = 0.0,
    sliders: Mapping[str, float] | None = None,
    method: str | None = None,
    decoder: str | Path | None = None,
    **options: Any,  # noqa: ANN401 - those of OneStepGenerator.load
) -> Restorer:
    """What restores by these weights; arguments and errors as of `OneStepGenerator.load`.

    A method that is a network by itself needs no base, and is loaded without one. Raises OptionError for what it has
    not: strength, fidelity and sliders.
    """
    file = None if weights is None else TensorFile.open(Path(weights))
    found = None if file is None else format_of(file, method)
    if file is None or found is None or found.method not in NETWORKS:
        return OneStepGenerator.load(
            base,
            weights,
            dtype=dtype,
            device=device,
            strength=strength,
            fidelity=fidelity,
            sliders=sliders,
            method=method,
            decoder=decoder,
            **options,
        )
    if fidelity or sliders or strength not in (1.0, (1.0, 1.0)):
        raise OptionError(f"{found.about.title} has no strength, no fidelity and no sliders; leave them out.")
    device = parse_device(device)
    with torch.inference_mode(False):
        read = weights_in(file, method)
        network = NETWORKS[found.method](read, None if decoder is None else read_decoder(decoder))
        restorer = DirectRestorer(network, facts_of(found.method))
        restorer.to(device, parse_dtype(dtype, device))
    return restorer
