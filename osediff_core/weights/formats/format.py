"""An entry of the table of formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...method import Method
from ..one_step_weights import OneStepWeights
from ..tensor_file import TensorFile


@dataclass(frozen=True)
class Format:
    """One file format of one method.

    method: the method's name, which is also the kind of the file, e.g. "osediff". what: a noun phrase for messages.
    recognise: whether a file is of this format, by its names, shapes and metadata; no other format's may be.
    read: the weights in a file that was recognised, their tensors still mapped. Raises CheckpointError, one sentence.
    write, suffix: the content of a file, and the suffix that asks for it; None where the format is only read.
    about: facts of the method. resembles: whether a file that no format recognises could be of this one, so that it may
    be read as one when the user names the method; None: none could.
    """

    method: str
    what: str
    recognise: Callable[[TensorFile], bool]
    read: Callable[[TensorFile], OneStepWeights]
    write: Callable[[OneStepWeights], bytes] | None = None
    suffix: str | None = None
    about: Method = field(default_factory=Method)
    resembles: Callable[[TensorFile], bool] | None = None
