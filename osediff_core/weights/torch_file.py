"""Files of torch.save, old and new: no code in them is run, and no size in them is believed before it is checked."""

from __future__ import annotations

import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .pickles import BrokenPickle, foreign_objects

ZIP, LEGACY = "torch-zip", "torch-legacy"

_SHOWN, _NAME = 3, 80  # names of objects in a message, characters of each
_PICKLE_LIMIT = 64 * 2**20  # bytes; a checkpoint of 2000 tensors has 0.3 MB beside their data
_SHARED = 4  # times the file's size that tied tensors may have together


def check_torch_file(path: Path, container: str) -> None:
    """Look at a torch file without unpickling anything. Raises CheckpointError: code, a bomb, damage."""
    try:
        if container == ZIP:
            _check_archive(path)
        elif tarfile.is_tarfile(path):  # torch's oldest format, which it would unpack to the disk
            raise no_torch_file(path)
        objects = foreign_objects(path)
    except (
        OSError,
        zipfile.BadZipFile,
        BrokenPickle,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise no_torch_file(path) from error
    if objects:
        more = "" if len(objects) <= _SHOWN else ", …"
        named = ", ".join(repr(name[:_NAME])[1:-1] for name in objects[:_SHOWN])
        raise CheckpointError(
            f"{path} holds Python code or objects ({named}{more}) and not only tensors, so it was not opened; use a "
            "copy from a source you trust, saved with tensors only (.safetensors)."
        )


def load_torch(path: Path, container: str) -> object:
    """The object in a torch file (tensors on the CPU), through the restricted unpickler: no code in it is run.

    It is without what a trainer wrapped around a dict of dicts. Raises CheckpointError.
    """
    try:
        with warnings.catch_warnings():
            # torch warns about typed storages of old files; nothing to act upon
            warnings.simplefilter("ignore")
            if container == ZIP and path.suffix != ".safetensors":
                content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
            else:
                with path.open(
                    "rb"
                ) as file:  # given a name, torch would go by its suffix and not by the content
                    content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle, but not of torch.save's tensors; give a file of weights."
        ) from error
    except Exception as error:  # torch gives RuntimeError, EOFError, KeyError, OSError, ... for damaged files
        if lacks_memory(error):
            raise too_large(path) from error
        raise no_torch_file(path) from error
    _check_storages(path, content)
    return _unwrapped(content)


def _unwrapped(content: object) -> object:
    """The one dict of dicts in a dict without tensors, as {"state_dict": …, "epoch": 3} is around a method's own.

    Not where a dict of tensors stands beside it: then these are the weights, and the other an optimizer's state.
    """
    while isinstance(content, Mapping) and not _has_tensors(content):
        dicts = [value for value in content.values() if isinstance(value, Mapping)]
        inner = [value for value in dicts if any(isinstance(one, Mapping) for one in value.values())]
        if len(inner) != 1 or any(_has_tensors(value) for value in dicts if value is not inner[0]):
            break
        content = inner[0]
    return content


def _has_tensors(content: Mapping[object, object]) -> bool:
    return any(isinstance(value, Tensor) for value in content.values())


def tensors_in(content: object) -> dict[str, Tensor]:
    """The tensors by name in what torch.load gave: the dict itself, or its one level of nesting with most of them.

    Trainers wrap the weights ("state_dict", "model", "params_ema", ...); {} if there are none.
    """
    if not isinstance(content, Mapping):
        return {}
    candidates = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    found = (
        {k: v for k, v in one.items() if isinstance(k, str) and isinstance(v, Tensor)} for one in candidates
    )
    return max(found, key=len)


def check_sizes(path: Path, content: object) -> None:
    """Raises CheckpointError if the tensors repeat the file's values more often than tied ones do.

    A tensor may be of any size on a storage of a single value; to copy it takes what it says.
    """
    if sum(t.numel() * t.itemsize for t in _walk(content)) > _SHARED * path.stat().st_size:
        raise CheckpointError(f"{path} holds fewer values than its tensors say; download or copy it again.")


def lacks_memory(error: BaseException) -> bool:
    """Whether the system refused memory, for data or for mapping a file."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def too_large(path: Path) -> CheckpointError:
    """For a file that memory does not suffice for."""
    return CheckpointError(f"{path} needs more memory than there is; free some and try again.")


def no_torch_file(path: Path) -> CheckpointError:
    """For a file that looks like torch's and is none."""
    return CheckpointError(f"{path} is cut short, damaged or no torch file; download or copy it again.")


def _check_archive(path: Path) -> None:
    """torch stores its records one after the other as they are: nothing inflates, nothing is held twice."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise CheckpointError(
            f"{path} is a TorchScript program and not only tensors, so it was not opened; use a copy saved with "
            "tensors only (.safetensors)."
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise CheckpointError(
            f"{path} is a compressed archive, which torch does not write, so it was not unpacked; give the weights "
            "themselves."
        )
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise no_torch_file(path)
    if any(r.file_size > _PICKLE_LIMIT for r in records if r.filename.endswith(".pkl")):
        raise no_torch_file(path)


def _walk(content: object) -> Iterable[Tensor]:
    """Every tensor in nested dicts, lists and tuples, as often as these name it."""
    seen: set[int] = set()
    left: list[Any] = [content]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            left += value


def _check_storages(path: Path, content: object) -> None:
    tensors = list(_walk(content))
    if any(
        t.layout != torch.strided or t.device.type != "cpu" or t.is_quantized or t.is_nested for t in tensors
    ):
        raise CheckpointError(
            f"{path} holds sparse, quantised or empty tensors, which are not read here; save them dense, in fp16, bf16 "
            "or fp32."
        )
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    if sum(storages.values()) > path.stat().st_size:  # torch makes them as large as a tensor says
        raise no_torch_file(path)
