"""The file formats of one-step methods' weights, one file each.

Another method is one more file and its line in the table: everything else goes by that.
"""

from collections.abc import Callable

from ...errors import OptionError
from ...method import Method
from ..one_step_weights import OneStepWeights
from ..tensor_file import TensorFile
from . import adcsr, hypir, official_pkl, omgsr_s, one_step_safetensors, osediff_safetensors, pisa_sr, s3diff
from .format import Format

_PUBLISHED = (
    osediff_safetensors.FORMAT,
    official_pkl.FORMAT,
    pisa_sr.FORMAT,
    omgsr_s.FORMAT,
    hypir.FORMAT,
    adcsr.FORMAT,
    s3diff.FORMAT,
)
# each can also be written, and read again, as a file of ours
FORMATS = (
    *_PUBLISHED,
    *(
        one_step_safetensors.format_for(f.method, f.about)
        for f in _PUBLISHED
        if f.method != osediff_safetensors.FORMAT.method
    ),
)


def format_of(file: TensorFile, method: str | None = None) -> Format | None:
    """The format of a file of weights; None for any other file.

    method: its name, which decides where the content does not; a file that says itself what it is, is that. Raises
    OptionError for an unknown name.
    """
    if method is not None and method not in methods():
        raise OptionError(f"There is no method {method!r}; choose one of {', '.join(methods())}.")
    known = next((f for f in FORMATS if f.recognise(file)), None)
    if known is not None:
        return known if method in (None, known.method) else None
    return None if method is None else next((f for f in resembled(file) if f.method == method), None)


def resembled(file: TensorFile) -> list[Format]:
    """The formats that a file could be of, which by its content cannot be told from others."""
    return [f for f in FORMATS if f.resembles is not None and f.resembles(file)]


def methods() -> dict[str, Method]:
    """Name -> facts of every method whose weights are read."""
    return {f.method: f.about for f in FORMATS}


def facts_of(method: str) -> Method:
    """The facts of a method by its name; a method that the table lacks has the defaults."""
    return methods().get(method) or Method()


def writers(method: str) -> dict[str, Callable[[OneStepWeights], bytes]]:
    """Suffix -> what makes the content of a file, for the formats that a method's weights can be written in."""
    return {f.suffix: f.write for f in FORMATS if f.method == method and f.suffix and f.write}
