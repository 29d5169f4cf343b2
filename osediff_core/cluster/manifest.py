"""Manifest of a batch on a cluster: with which settings its results are made, and what became of each picture.

The results are the truth; the manifest is a report. It may hold several rows for a picture, one a run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..atomic import write_bytes_atomically
from ..batch.restorer import Settings
from ..errors import ImageError, OptionError, explained, writing
from ..version import __version__

_ROWS = 1000  # in a file, at most
_RANK = {"restored": 0, "skipped": 1, "failed": 2}
_ENDS = 2**20  # bytes of a file's beginning and end that tell it from others
_NO_MATTER = {"device", "allow_download"}  # of the settings, for the results


class Manifest:
    """A folder. Rows wait in memory until there are many, or the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = secrets.token_hex(4)
        self._rows: list[dict[str, Any]] = []
        self._files = 0
        self._new: dict[str, Any] | None = None

    def begin(self, settings: Settings, names: Mapping[str, Any]) -> None:
        """Settings, and `names`, what decides how results are called; noted once there is a row.

        Raises OptionError where an earlier run had other ones, whose results these would be mixed with; ImageError.
        """
        mine = json.loads(json.dumps({"version": __version__, **_identity(settings), **names}))
        path = self.folder / "run.json"
        with explained(
            ImageError, f"{path} cannot be read", "change its permissions, or give another --manifest"
        ):
            text = path.read_text(encoding="utf-8") if path.exists() else None
        if text is None:
            self._new = mine
            return
        try:
            theirs = dict(json.loads(text))
        except ValueError:
            raise OptionError(f"{path} is no manifest of osediff; give another --manifest.") from None
        other = [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]
        if other:
            said = ", ".join(f"{one}: {theirs.get(one)!r}, now {mine.get(one)!r}" for one in sorted(other))
            raise OptionError(
                f"The results there were made with other options ({said}); give the same, or another output."
            )

    def add(self, record: Mapping[str, Any], node: str, attempt: int) -> None:
        """What became of a picture. Raises ImageError, DiskFull."""
        if self._new is not None:
            self._write("run.json", json.dumps(self._new, indent=2).encode())
            self._new = None
        self._rows.append({**record, "node": node, "attempt": attempt, "run": self.run})
        if len(self._rows) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that wait, as a file more. Raises ImageError, DiskFull."""
        if not self._rows:
            return
        import pyarrow
        import pyarrow.parquet

        data = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(map(_plain, self._rows)), schema()), data)
        self._write(f"{self.run}-{self._files:05}.parquet", data.getvalue())
        self._rows, self._files = [], self._files + 1

    def _write(self, name: str, data: bytes) -> None:
        with writing(ImageError, f"{self.folder / name} cannot be written", "give another --manifest"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(self.folder / name, data)


def schema() -> Any:  # noqa: ANN401 - pyarrow's, which is imported late
    """The columns: those of a record, and the node, the attempt and the run it came from."""
    import pyarrow as pa

    size = pa.list_(pa.int32())
    texts = {
        name: pa.string() for name in ("input", "output", "status", "error", "kind", "prompt", "node", "run")
    }
    return pa.schema(
        {**texts, "seconds": pa.float64(), "input_size": size, "output_size": size, "attempt": pa.int32()}
        | {"notes": pa.list_(pa.string())}
    )


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """One row for each picture: of several the best, restored before skipped before failed."""
    import pyarrow.parquet

    best: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            other = best.get(row["input"])
            if other is None or _RANK[row["status"]] < _RANK[other["status"]]:
                best[row["input"]] = row
    return list(best.values())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Names may hold bytes that are no text, which parquet cannot."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _identity(settings: Settings) -> dict[str, Any]:
    """What of the settings the results depend on; files of weights by their content."""
    found = {name: value for name, value in asdict(settings).items() if name not in _NO_MATTER}
    files = {one: _mark(found[one]) for one in ("base", "weights", "decoder", "dape", "ram") if found[one]}
    return {**found, "content": {name: mark for name, mark in files.items() if mark}}


def _mark(name: str) -> str | None:
    """A hash of a file, or of the files of a folder: of their names, sizes and ends; None for a hub id and the like."""
    if not os.path.exists(name):
        return None
    top = Path(name)
    digest = hashlib.blake2b(digest_size=16)
    with explained(ImageError, f"{name} cannot be read", "change its permissions"):
        for path in _files(top):
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.relative_to(top)} {size}".encode("utf-8", "surrogateescape"))
                digest.update(file.read(_ENDS))
                file.seek(max(0, size - _ENDS))
                digest.update(file.read(_ENDS))
    return digest.hexdigest()


def _files(top: Path) -> Iterable[Path]:
    return [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
