"""The writer of tensor files: whole or not at all, and equal content as equal bytes."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..atomic import write_bytes_atomically
from ..errors import CheckpointError, OptionError, writing
from ..runtime.device import DTYPES


def stored_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype to store tensors in, by name ("fp32", "fp16", "bf16") or as torch's; None keeps them as they are.

    Raises OptionError for another one.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise OptionError(f"Weights are not saved as {dtype}; use {', '.join(DTYPES)}.")
    return found


def write_file(path: Path, data: bytes) -> None:
    """Write a file of weights, whole or not at all. Raises CheckpointError if folder or disk do not take it."""
    remedy = (
        "choose another folder or free space" if os.path.isdir(path.parent) else "create its folder first"
    )
    with writing(CheckpointError, f"{path} cannot be written", remedy):
        write_bytes_atomically(path, data)


def sorted_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file. The library writes the metadata in random order; sorted, equal content gives equal bytes."""
    data = safetensors.torch.save(dict(tensors), {str(k): str(v) for k, v in metadata.items()})
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, memoryview(data)[8 + size :]))


def torch_bytes(content: object) -> bytes:
    """A torch file, through memory: torch's own writer can abort the process when the disk is full."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
