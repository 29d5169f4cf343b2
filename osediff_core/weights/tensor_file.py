"""The one reader of tensor files: names and shapes at once, data when asked for; code in a file is never run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..documents import read_document
from ..errors import CheckpointError, first_line
from ..regular import check_regular
from .quantised import is_extra, is_quantised, restored
from .safetensors_header import Shape, damaged, safetensors_header
from .torch_file import (
    LEGACY,
    ZIP,
    check_sizes,
    check_torch_file,
    lacks_memory,
    load_torch,
    tensors_in,
    too_large,
)

Tensors = dict[str, Tensor]

FOLDER = "folder"
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
_DTYPES = {  # safetensors' name -> torch's, where it has one
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# what DataParallel, torch.compile and keepers of averages put before every name
_WRAPPERS = ("module.", "_orig_mod.", "ema_model.", "ema.")
_PIECE = 16 * 2**20  # values mapped at a time: 64 MB in fp32


@dataclass(frozen=True)
class TensorFile:
    """A file of tensors, opened once: to be recognised by its names and shapes, and then read.

    container: "safetensors", "torch-zip", or "torch-legacy", which torch wrote before 2020 and which is read whole;
    the data of the others stay on the disk. Or "folder", of peft's adapters, as if it were one file: tensors are named
    "ADAPTER/NAME", and metadata are the text of "ADAPTER/adapter_config.json". shapes, dtypes ("float32"): by tensor
    name. metadata: strings, which else only a .safetensors has. content: the object in a torch file, whose tensors may
    be nested. wrapper: what a program put before every name in the file; names here are without it. quantised: whether
    tensors stand for other values, which reading gives; scales are not among the names.
    """

    path: Path
    container: str
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    content: Any = None
    wrapper: str = ""
    quantised: bool = False

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
            dtypes, content = {name: _DTYPES.get(dtype, dtype) for name, dtype in dtypes.items()}, None
        else:
            check_torch_file(path, container)
            content = load_torch(path, container)
            tensors = tensors_in(content)
            shapes, metadata = shapes_of(tensors), {}
            dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
        wrapper = _wrapper_of(shapes)
        own = {name: name.removeprefix(wrapper) for name in shapes}
        return cls(
            path,
            container,
            {own[name]: shape for name, shape in shapes.items() if not is_extra(name)},
            {own[name]: dtype for name, dtype in dtypes.items() if not is_extra(name)},
            metadata,
            content,
            wrapper,
            is_quantised(dtypes),
        )

    def tensor(self, name: str) -> Tensor:
        """One of them, mapped from the file. Raises CheckpointError when it is damaged."""
        if self.quantised:
            return self.tensors()[name]
        if self.container != "safetensors":
            return self.tensors()[name]
        with self._safetensors() as file:
            return file.get_tensor(self.wrapper + name)

    def tensors(self) -> Tensors:
        """All of them by name, mapped from the file. Raises CheckpointError when it is damaged."""
        if self.container != "safetensors":
            self.check_sizes()
            stored = tensors_in(self.content)
        else:
            with self._safetensors() as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}
        found = {name.removeprefix(self.wrapper): tensor for name, tensor in stored.items()}
        return restored(self.path, found) if self.quantised else found

    def check_sizes(self) -> None:
        """Raises CheckpointError if tensors of a torch file say that they are much larger than the file."""
        if self.container != FOLDER:  # whose files were checked one by one
            check_sizes(self.path, self.content)

    def in_pieces(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Each named tensor, valid until the next one is asked for: copy what is to be kept.

        For files larger than what is used of them: a piece is mapped at a time and let go again, so that memory holds
        no more than that. Raises CheckpointError.
        """
        if self.container in (LEGACY, FOLDER) or self.quantised:
            held = self.tensors()
            yield from ((name, held[name]) for name in names)
            return
        self.check_sizes()
        for piece in self._pieces(names):
            if self.container == "safetensors":
                with self._safetensors() as file:
                    yield from ((name, file.get_tensor(self.wrapper + name)) for name in piece)
            else:
                held = tensors_in(load_torch(self.path, self.container))  # mapped anew
                yield from ((name, held[self.wrapper + name]) for name in piece)
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
            if isinstance(error, RuntimeError) or lacks_memory(error):
                raise too_large(self.path) from error
            raise damaged(self.path) from error


def has_adapters(path: Path) -> bool:
    """Whether `path` is a folder of peft's adapters, each a folder of its own."""
    return os.path.isdir(path) and any(path.glob(f"*/{ADAPTER}"))


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
        if os.path.isfile(config):
            try:
                text = read_document(config).decode("utf-8", "replace")
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{config} cannot be read; check the file and its permissions."
                ) from error
            metadata[f"{folder.name}/{ADAPTER_CONFIG}"] = text
    return TensorFile(path, FOLDER, shapes, dtypes, metadata, tensors)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The tensors' shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _wrapper_of(names: Iterable[str]) -> str:
    """What all names begin with and no network has itself."""
    names, wrapper = list(names), ""
    while names and (
        found := next((w for w in _WRAPPERS if all(n.startswith(wrapper + w) for n in names)), "")
    ):
        wrapper += found
    return wrapper


def _container_of(path: Path, wanted: str) -> str:
    try:
        if os.path.isdir(path):
            raise CheckpointError(f"{path} is a folder; give the weights file inside it.")
        check_regular(path, CheckpointError, f"give {wanted}")  # reading a pipe or a device may never end
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or first_line(error)}); check the path and its permissions."
        ) from error
    except ValueError as error:  # a NUL, which the system takes for the end
        raise CheckpointError(f"{os.fspath(path)!r} is not a possible path; check it.") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); download or export it again.")
    if head[:4] == b"PK\x03\x04":
        return ZIP
    fits = (
        int.from_bytes(head[:8], "little") + 8 <= size
    )  # the length of a header, which may begin as a text does
    if head[8:9] == b"{" and (fits or not head.startswith((b"{", b"<"))):
        if not fits:
            raise damaged(path)
        return "safetensors"
    if head[:1] == b"\x80":
        return LEGACY
    lead = head.lstrip()
    what = next(
        (what for magic, what in _OTHER_FILES if lead.startswith(magic)), "no file of tensors that is known"
    )
    raise CheckpointError(f"{path} is {what}; give {wanted}.")
