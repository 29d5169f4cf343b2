"""Loading of whatever restores: a base with weights on it, or a method that is a network by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import OptionError
from ..generator import OneStepGenerator
from ..runtime.device import parse_device, parse_dtype, short_name
from ..weights.checkpoint import read_decoder, weights_in
from ..weights.decoder_file import DecoderWeights
from ..weights.formats import format_of
from ..weights.one_step_weights import OneStepWeights
from ..weights.tensor_file import TensorFile
from .adcsr import build
from .network import Network
from .restorer import DirectRestorer
from .upscaler import read_upscaler

if TYPE_CHECKING:
    Restorer = OneStepGenerator | DirectRestorer

# method -> its network of its weights and of the decoder that comes in a file of its own
NETWORKS: dict[str, Callable[[OneStepWeights, DecoderWeights | None], Network]] = {"adcsr": build}


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

    A method that is a network by itself needs no base, and is loaded without one; so is an upscaler that the package
    spandrel knows, such as Real-ESRGAN. Raises OptionError for what it has
    not: strength, fidelity and sliders.
    """
    file = None if weights is None else TensorFile.open(Path(weights))
    network = None if file is None else _network(file, method, decoder)
    if network is None:
        return OneStepGenerator.load(
            base,
            file,
            dtype=dtype,
            device=device,
            strength=strength,
            fidelity=fidelity,
            sliders=sliders,
            method=method,
            decoder=decoder,
            **options,
        )
    title = network.method.title
    if fidelity or sliders or strength not in (1.0, (1.0, 1.0)):
        raise OptionError(f"{title} has no strength, no fidelity and no sliders; leave them out.")
    device = parse_device(device)
    precision = parse_dtype(dtype, device)
    if not network.takes(precision):
        if dtype != "auto":
            raise OptionError(f"{title} does not compute in {short_name(precision)}; use fp32.")
        precision = torch.float32
    with torch.inference_mode(False):
        restorer = DirectRestorer(network)
        restorer.to(device, precision)
    return restorer


@torch.inference_mode(False)
def _network(file: TensorFile, method: str | None, decoder: str | Path | None) -> Network | None:
    """The network in a file that needs no base, in fp32 on the CPU; None for any other file."""
    found = format_of(file, method)
    if found is not None:
        if found.method not in NETWORKS:
            return None
        read = weights_in(file, method)
        return NETWORKS[read.method](read, None if decoder is None else read_decoder(decoder))
    upscaler = None if method is not None else read_upscaler(file)
    if upscaler is None:
        weights_in(file, method)  # says what it is, before anything else is loaded
    elif decoder is not None:
        raise OptionError(f"{upscaler.method.title} takes no decoder; leave out --decoder.")
    return upscaler
