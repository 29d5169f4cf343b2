"""AdcSR's file: the state dict of a whole network, which needs no base, but the half decoder in a file of its own."""

from __future__ import annotations

from ...method import Method
from ..one_step_weights import OneStepWeights
from ..tensor_file import TensorFile
from .format import Format

METHOD = "adcsr"
_FIRST = "body.1.conv_in.weight"
_AGAIN = "body.1.body."  # every block a second time, under the name that its nn.Sequential gives it


def recognise(file: TensorFile) -> bool:
    """By its first layer, which takes unshuffled pixels, and by what it lacks of Stable Diffusion's UNet."""
    first = file.shapes.get(_FIRST, ())
    return first[1:2] == (12,) and not any("time_embedding" in n or ".attn2." in n for n in file.shapes)


def read(file: TensorFile) -> OneStepWeights:
    """Its tensors, each once."""
    network = {name: tensor for name, tensor in file.tensors().items() if not name.startswith(_AGAIN)}
    return OneStepWeights(METHOD, (), metadata={"base": ABOUT.base}, source=str(file.path), network=network)


ABOUT = Method(
    title="AdcSR",
    base="none",
    prompt="none: it reads no text",
    reads_words=False,
    color_fix="none",  # its own is part of it
    licence="Apache-2.0",
    source="https://github.com/Guaishou74851/AdcSR",
    advice="It enlarges by 4 and needs halfDecoder.ckpt as the decoder (--decoder).",
)
FORMAT = Format(METHOD, "AdcSR's network", recognise, read, about=ABOUT)
