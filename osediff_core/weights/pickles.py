"""The pickles in a torch file as lists of what they would import, from their opcodes and without running them."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

_HEAD = 64 * 2**20  # bytes in which the pickles of a file without zip must end; tensors' data follow them
_OPCODES = 2_000_000  # a checkpoint of 2000 tensors has 80,000
_LEGACY = 5  # pickles before the data: magic number, protocol, facts about the system, the content, names of storages
_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # torch's, the first of them

# What torch.save writes for tensors, dictionaries and numbers; nothing here does more than to hold values.
_STORAGES = (
    "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble ComplexHalf "
    "Float8_e4m3fn Float8_e5m2"
).split()
_DTYPES = (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 "
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu uint16 uint32 uint64"
).split()
_HARMLESS = frozenset(
    [
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"torch.{name}" for name in _DTYPES),
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
        "torch.Tensor",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "collections.OrderedDict",
        "collections.Counter",
        "__builtin__.set",
        "builtins.set",
        "_codecs.encode",
    ]
)


class BrokenPickle(Exception):
    """A pickle is cut short, is none, or is longer than any that holds weights."""


def foreign_objects(path: Path) -> list[str]:
    """The objects beside torch's plain ones that the pickles of a torch file name, each once.

    Raises OSError, zipfile.BadZipFile, and BrokenPickle where a pickle cannot be read to its end before any is found.
    """
    found: dict[str, None] = {}
    try:
        for data in _pickles(path):
            for name in _imports(data):
                if name not in _HARMLESS:
                    found[name] = None
    except BrokenPickle:
        if not found:
            raise
    return list(found)


def _pickles(path: Path) -> Iterator[io.BytesIO]:
    """Every pickle of the file, at its beginning; what reads it leaves the position at its end."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.filename.endswith(".pkl"):
                    yield io.BytesIO(archive.read(record))
        return
    data, legacy = io.BytesIO(head), _MAGIC in head[:32]
    for number in range(_LEGACY if legacy else _OPCODES):
        if number and not legacy and head[data.tell() : data.tell() + 1] != b"\x80":
            return
        yield data


def _imports(data: io.BytesIO) -> Iterator[str]:
    """The objects that one pickle names, as "module.name". Raises BrokenPickle."""
    # An object may be named by two strings that come from anywhere on the pickle machine's stack or out of its memo;
    # what is not plainly known here counts as foreign.
    pushed: list[object] = []
    memo: dict[int, object] = {}
    opcodes = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            opcodes += 1
            if opcodes > _OPCODES:
                raise BrokenPickle
            name = opcode.name
            if name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
                pushed.append(None)
            elif name == "STACK_GLOBAL":
                module, attribute = pushed[-2:] if len(pushed) > 1 else (None, None)
                known = isinstance(module, str) and isinstance(attribute, str)
                yield f"{module}.{attribute}" if known else "an object without a plain name"
                pushed.append(None)
            elif name.startswith("EXT"):
                yield "an object by number"
            elif name == "MEMOIZE":
                memo[len(memo)] = pushed[-1] if pushed else None
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[int(argument or 0)] = pushed[-1] if pushed else None
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                pushed.append(memo.get(int(argument or 0)))
            elif name in ("POP", "POP_MARK", "DUP"):
                pushed.clear()
            elif opcode.stack_after:
                pushed.append(argument)
            del pushed[:-2]
    except BrokenPickle:
        raise
    except (
        Exception
    ) as error:  # pickletools and codecs raise many kinds; all mean that this is no whole pickle
        raise BrokenPickle from error
