"""Large files of tensors, read in pieces: a few tensors at a time are mapped, copied and let go again.

RAM's file holds its optimiser too, 5.6 GB of which the tagger needs 0.85: the peak stays at what is used and a piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..weights.tensor_file import (
    container_of,
    load_torch,
    reading_safetensors,
    safetensors_header,
    shapes_of,
    tensor_dict,
)

_PIECE = 16 * 2**20  # values mapped at a time: 64 MB in fp32


@dataclass(frozen=True)
class TensorFile:
    """Names and shapes of a file's tensors, and its metadata; a torch file has none."""

    path: Path
    container: str
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, wanted: str) -> TensorFile:
        """wanted: what a user should give, for the message about a foreign file. Raises CheckpointError."""
        container = container_of(path, wanted)
        if container == "safetensors":
            shapes, _, metadata = safetensors_header(path)
            return cls(path, container, shapes, metadata)
        return cls(path, container, shapes_of(_torch_tensors(path, container)))

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Each named tensor, valid until the next one is asked for: copy what is to be kept. Raises CheckpointError."""
        # what torch wrote before its zip format cannot be mapped: it is read once, as a whole
        pieces = [list(names)] if self.container == "torch-legacy" else self._pieces(names)
        for piece in pieces:
            if self.container == "safetensors":
                with reading_safetensors(self.path) as file:
                    yield from ((name, file.get_tensor(name)) for name in piece)
            else:
                held = _torch_tensors(self.path, self.container)
                yield from ((name, held[name]) for name in piece)
                del held

    def _pieces(self, names: Iterable[str]) -> list[list[str]]:
        pieces: list[list[str]] = [[]]
        size = 0
        for name in names:
            count = math.prod(self.shapes[name])
            if size and size + count > _PIECE:
                pieces.append([])
                size = 0
            pieces[-1].append(name)
            size += count
        return pieces


def _torch_tensors(path: Path, container: str) -> dict[str, Tensor]:
    return tensor_dict(load_torch(path, mmap=container == "torch-zip"))
