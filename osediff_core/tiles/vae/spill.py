"""Nameless file for the feature maps that memory cannot hold."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import OutOfDisk


class Place(NamedTuple):
    """Bytes start ... start + length - 1 of the file."""

    start: int
    length: int


class Spill:
    """Tensors in places of one file; a place that is given back is used again, and the file ends with the last one.

    One file for all, as there are thousands of bands and a process may hold a few hundred files open. It has no name,
    so that the system removes it whatever happens to the process.
    """

    def __init__(self, folder: Path | None) -> None:
        """Raises OutOfDisk if `folder` (None: the system's) takes no file."""
        self.folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        except OSError as error:
            raise disk_error(error, folder) from error
        self._free: list[Place] = []  # sorted; no two touch, and none touches the end
        self.size = 0
        self.most = 0

    def write(self, tensor: Tensor) -> Place:
        """Keeps a CPU tensor's elements. Raises OutOfDisk."""
        data = _bytes_of(tensor)
        place = self._take(len(data))
        try:
            self._file.seek(place.start)
            done = 0
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            raise disk_error(error, self.folder) from error
        return place

    def read(self, place: Place, tensor: Tensor) -> None:
        """Fills a contiguous CPU tensor with what `place` holds. Raises OutOfDisk if the file was cut short."""
        data = _bytes_of(tensor)
        self._file.seek(place.start)
        done = 0
        while done < len(data):
            count = self._file.readinto(data[done:])
            if not count:
                raise OutOfDisk(
                    "A file of intermediate features was cut short; check the disk, and try again."
                )
            done += count

    def give_back(self, place: Place) -> None:
        """Free a place whose content is no longer needed."""
        merged: list[Place] = []
        for start, length in sorted([*self._free, place]):
            if merged and merged[-1].start + merged[-1].length == start:
                merged[-1] = Place(merged[-1].start, merged[-1].length + length)
            else:
                merged.append(Place(start, length))
        if merged[-1].start + merged[-1].length == self.size:
            self.size = merged.pop().start
            self._file.truncate(self.size)
        self._free = merged

    def _take(self, length: int) -> Place:
        for index, free in enumerate(self._free):
            if free.length >= length:
                rest = Place(free.start + length, free.length - length)
                self._free[index : index + 1] = [rest] if rest.length else []
                return Place(free.start, length)
        place = Place(self.size, length)
        self.size += length
        self.most = max(self.most, self.size)
        return place


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor; NumPy has no bfloat16."""
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1).data


def disk_error(error: OSError, folder: Path | None) -> OutOfDisk:
    """The error for the user when the file of features in `folder` fails."""
    where = folder or tempfile.gettempdir()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfDisk(
            f"The disk of {where} is full, and the features of this image do not fit in memory; free some space, point "
            "TMPDIR at a larger disk, or use a smaller target size."
        )
    return OutOfDisk(
        f"Intermediate features cannot be written to {where} ({error.strerror or error}); point TMPDIR at a folder "
        "that can be written."
    )


def temporary_folder() -> Path:
    """The folder for features if nobody says: the system's folder for temporary files, which TMPDIR names.

    If nothing names it and it is a RAM disk, where files take the memory that they shall spare, /var/tmp.
    """
    folder, on_disk = Path(tempfile.gettempdir()), Path("/var/tmp")
    if any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")):
        return folder
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:  # no Linux
        return folder
    kinds = {mount: kind for mount, kind in mounts}
    home = next((str(p) for p in (folder, *folder.resolve().parents) if str(p) in kinds), "")
    return on_disk if kinds.get(home) in ("tmpfs", "ramfs") and on_disk.is_dir() else folder
