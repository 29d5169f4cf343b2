"""The header of a .safetensors file: names, types and shapes of its tensors, checked against the file's size.

Parsed here, as the library maps the whole file first, which a system may refuse for a large one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from ..documents import parse_json
from ..errors import CheckpointError

Shape = tuple[int, ...]

_LIMIT = 100_000_000  # bytes of JSON, safetensors' own limit
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class Header(NamedTuple):
    """shapes, dtypes (safetensors' own names, "F32"): by tensor name. metadata: strings."""

    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]


def safetensors_header(path: Path) -> Header:
    """Raises CheckpointError for a file that is damaged, or whose tensors do not fill it exactly."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_LIMIT, size - 8):
                raise ValueError("the header ends beyond the file")
            header = parse_json(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that are no text")
        places = sorted(_place(entry) for entry in header.values())
        ends = [0, *(end for _, end in places)]
        if [begin for begin, _ in places] != ends[:-1] or 8 + length + ends[-1] != size:
            raise ValueError("the tensors do not fill the file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path) from error
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: entry["dtype"] for name, entry in header.items()}
    return Header(shapes, dtypes, metadata)


def damaged(path: Path) -> CheckpointError:
    """For a .safetensors that is not whole."""
    return CheckpointError(f"{path} is cut short or damaged; download or copy it again.")


def _place(entry: dict[str, Any]) -> tuple[int, int]:
    """(begin, end) of a tensor's data in bytes. Raises ValueError, KeyError or TypeError where they cannot be."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("no sizes")
    if (end - begin) * 8 != math.prod(shape) * _BITS[entry["dtype"]]:
        raise ValueError("another size than its shape's")
    return begin, end
