"""The one reader of tensor files: names and shapes at once, data when asked for; code in a file is never run."""

from __future__ import annotations

import json
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, explained

Shape = tuple[int, ...]
Tensors = dict[str, Tensor]

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # in a folder of peft's

_OTHER_FILES = (  # first bytes -> what it is; met where a download went wrong or a wrong file was picked
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"RIFF", "a WebP or other RIFF file"),
    (b"GGUF", "a GGUF model"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "a web page or XML, probably a failed download"),
    (b"{", "a JSON text"),
)
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}
_HARMLESS = ("torch.", "collections.OrderedDict")  # what torch itself writes for tensors
_HEADER_LIMIT = 100_000_000  # bytes of JSON, safetensors' own limit
_PICKLE_HEAD = 64 * 2**20  # bytes of a zip-less pickle that are parsed, never run, to name the code in it
_PIECE = 16 * 2**20  # values mapped at a time: 64 MB in fp32


@dataclass(frozen=True)
class TensorFile:
    """A file of tensors, opened once: to be recognised by its names and shapes, and then read.

    container: "safetensors", "torch-zip", or "torch-legacy", which torch wrote before 2020 and which is read whole;
    the data of the others stay on the disk. Or "folder", of peft's adapters, as if it were one file: tensors are named
    "ADAPTER/NAME", and metadata are the text of "ADAPTER/adapter_config.json". shapes, dtypes ("float32"): by tensor
    name. metadata: strings, which else only a .safetensors has. content: the object in a torch file, whose tensors may
    be nested.
    """

    path: Path
    container: str
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    content: Any = None

    @classmethod
    def open(cls, path: Path, wanted: str = "OSEDiff weights (.pkl or .safetensors)") -> TensorFile:
        """Open a .safetensors or torch file, told apart by content and never by suffix.

        wanted: what a user should give instead of a foreign file. Raises CheckpointError for a file that is missing,
        empty, unreadable, damaged or foreign or that holds code, and for a folder without adapters.
        """
        if has_adapters(path):
            return _open_adapters(path)
        container = _container_of(path, wanted)
        if container == "safetensors":
            shapes, dtypes, metadata = safetensors_header(path)
            named = {name: _DTYPES.get(dtype, dtype) for name, dtype in dtypes.items()}
            return cls(path, container, shapes, named, metadata)
        content = _load_torch(path, container)
        tensors = _tensors_in(content)
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
        return cls(path, container, shapes_of(tensors), dtypes, content=content)

    def tensor(self, name: str) -> Tensor:
        """One of them, mapped from the file. Raises CheckpointError when it is damaged."""
        if self.container != "safetensors":
            return _tensors_in(self.content)[name]
        with self._safetensors() as file:
            return file.get_tensor(name)

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, mapped from the file. Raises CheckpointError when it is damaged."""
        if self.container != "safetensors":
            return _tensors_in(self.content)
        with self._safetensors() as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def in_pieces(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Each named tensor, valid until the next one is asked for: copy what is to be kept.

        For files larger than what is used of them: a piece is mapped at a time and let go again, so that memory holds
        no more than that. Raises CheckpointError.
        """
        if self.container in ("torch-legacy", "folder"):
            held = self.tensors()
            yield from ((name, held[name]) for name in names)
            return
        for piece in self._pieces(names):
            if self.container == "safetensors":
                with self._safetensors() as file:
                    yield from ((name, file.get_tensor(name)) for name in piece)
            else:
                held = _tensors_in(_load_torch(self.path, self.container))  # mapped anew
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

    @contextmanager
    def _safetensors(self) -> Iterator[safe_open]:
        """The open file, its tensors still on the disk. Raises CheckpointError when it is damaged."""
        try:
            with safe_open(str(self.path), framework="pt", device="cpu") as file:
                yield file
        except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
            # a RuntimeError is torch's, which maps the file; the system refuses that for want of memory
            if isinstance(error, RuntimeError) or _lacks_memory(error):
                raise _too_large(self.path) from error
            raise _damaged(self.path) from error


def has_adapters(path: Path) -> bool:
    """Whether `path` is a folder of peft's adapters, each a folder of its own."""
    return path.is_dir() and any(path.glob(f"*/{ADAPTER}"))


def _open_adapters(path: Path) -> TensorFile:
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    metadata: dict[str, str] = {}
    tensors: Tensors = {}
    for weights in sorted(path.glob(f"*/{ADAPTER}")):
        file, folder = TensorFile.open(weights), weights.parent
        shapes |= {f"{folder.name}/{name}": shape for name, shape in file.shapes.items()}
        dtypes |= {f"{folder.name}/{name}": dtype for name, dtype in file.dtypes.items()}
        tensors |= {f"{folder.name}/{name}": tensor for name, tensor in file.tensors().items()}
        config = folder / ADAPTER_CONFIG
        if config.is_file():
            with explained(CheckpointError, f"{config} cannot be read", "check its permissions"):
                text = config.read_text(encoding="utf-8", errors="replace")
            metadata[f"{folder.name}/{ADAPTER_CONFIG}"] = text
    return TensorFile(path, "folder", shapes, dtypes, metadata, tensors)


def safetensors_header(path: Path) -> tuple[dict[str, Shape], dict[str, str], dict[str, str]]:
    """(shape by name, safetensors' dtype by name, metadata). Raises CheckpointError when damaged."""
    try:  # by hand: the library maps the whole file, which the system may refuse for a large one
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _HEADER_LIMIT)))
        metadata = header.pop("__metadata__", None) or {}
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        dtypes = {name: entry["dtype"] for name, entry in header.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        whole = end == path.stat().st_size and all(isinstance(value, str) for value in metadata.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path) from error
    if not whole:
        raise _damaged(path)
    return shapes, dtypes, metadata


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The tensors' shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _container_of(path: Path, wanted: str) -> str:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the weights file inside it.")
    with explained(CheckpointError, f"{path} cannot be read", "check its permissions"):
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; check the path.")
        with path.open("rb") as file:
            head, size = file.read(64), path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); download or export it again.")
    if head[:4] == b"PK\x03\x04":
        return "torch-zip"
    if head[8:9] == b"{" and not head.startswith((b"{", b"<")):
        if int.from_bytes(head[:8], "little") + 8 > size:
            raise _damaged(path)
        return "safetensors"
    if head[:1] == b"\x80":
        return "torch-legacy"
    lead = head.lstrip()
    what = next(
        (what for magic, what in _OTHER_FILES if lead.startswith(magic)), "no file of tensors that is known"
    )
    raise CheckpointError(f"{path} is {what}; give {wanted}.")


def _load_torch(path: Path, container: str) -> object:
    """The object in a torch file (tensors on the CPU), through the restricted unpickler: no code in it is run."""
    try:
        with warnings.catch_warnings():
            # torch warns about typed storages of old files; nothing to act upon
            warnings.simplefilter("ignore")
            if container == "torch-zip" and path.suffix != ".safetensors":
                return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:  # given a name, torch would go by its suffix and not by the content
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # torch gives RuntimeError, EOFError, KeyError, OSError, ... for damaged files
        if _lacks_memory(error):
            raise _too_large(path) from error
        raise _no_torch_file(path) from error


def _tensors_in(content: object) -> dict[str, Tensor]:
    """The tensors by name in what torch.load gave: the dict itself, or its one level of nesting with most of them.

    Trainers wrap the weights ("state_dict", "model", "params_ema", ...); {} if there are none.
    """
    if not isinstance(content, Mapping):
        return {}
    candidates = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    found = ({str(k): v for k, v in one.items() if isinstance(v, Tensor)} for one in candidates)
    return max(found, key=len)


def _refused(path: Path, reason: str) -> CheckpointError:
    """Code, a plain pickle, or damage: the restricted unpickler raises the same error for all three."""
    named = re.search(r"(?:GLOBAL|[Cc]lass|[Ff]unction)\s+`?([A-Za-z_][\w.]*\.[\w.]+)", reason)
    code = [named.group(1).rstrip(".")] if named else _named_objects(path)
    if code is None:
        return _no_torch_file(path)
    if code:
        return CheckpointError(
            f"{path} holds Python code or objects ({', '.join(code[:3])}) and not only tensors, so it was "
            "not opened; use a copy from a source you trust, saved with tensors only (.safetensors)."
        )
    return CheckpointError(
        f"{path} is a Python pickle that torch's safe reader does not take; save it again with torch.save."
    )


def _named_objects(path: Path) -> list[str] | None:
    """The objects that a pickle would call, from its opcodes and without running them; None if it is damaged."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        else:
            with path.open("rb") as file:
                data = file.read(_PICKLE_HEAD)
        names, strings = [], []
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
        return [name for name in names if not name.startswith(_HARMLESS)]
    except Exception:  # any failure to parse means the same: this is not a whole pickle
        return None


def _lacks_memory(error: Exception) -> bool:
    """Whether the system refused memory, for data or for mapping a file."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _too_large(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} needs more memory than there is; free some and try again.")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is cut short or damaged; download or copy it again.")


def _no_torch_file(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is cut short, damaged or no torch file; download or copy it again.")
