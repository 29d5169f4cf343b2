"""The file formats of one-step methods' weights, one file each.

Another method is one more file and its line in FORMATS: everything else goes by the table.
"""

from collections.abc import Callable

from ..one_step_weights import OneStepWeights
from ..tensor_file import TensorFile
from . import official_pkl, osediff_safetensors
from .format import Format

FORMATS = (osediff_safetensors.FORMAT, official_pkl.FORMAT)


def format_of(file: TensorFile) -> Format | None:
    """The format of a file of weights; None for any other file."""
    return next((f for f in FORMATS if f.recognise(file)), None)


def writers(method: str) -> dict[str, Callable[[OneStepWeights], bytes]]:
    """Suffix -> what makes the content of a file, for the formats that a method's weights can be written in."""
    return {f.suffix: f.write for f in FORMATS if f.method == method and f.suffix and f.write}
