"""Manifest of a batch on a cluster: with which settings its results are made, and what became of each picture.

The results are the truth; the manifest is a report. It may hold several rows for a picture, one a run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..batch.job import Recipe, options_of
from ..batch.places import Place, Remote, files_below, kind_of, read_bytes, write_bytes
from ..batch.record import Result
from ..errors import ImageError, OptionError, explained, first_line
from ..version import __version__

_ROWS = 1000  # in a file, at most
_RANK = {"skipped": 1, "failed": 2}  # behind what was done
_ENDS = 2**20  # bytes of a file's beginning and end that tell it from others
_NO_MATTER = {"device", "allow_download", "vae_folder"}  # of the settings, for the results


class Manifest:
    """A folder. Rows wait in memory until there are many, or the end."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self.run = secrets.token_hex(4)
        self._rows: list[dict[str, Any]] = []
        self._files = 0
        self._new: dict[str, Any] | None = None

    def begin(self, recipe: Recipe, names: Mapping[str, Any]) -> None:
        """The recipe, and `names`, what decides how results are called; noted once there is a row.

        Raises OptionError where an earlier run had other ones, whose results these would be mixed with; ImageError.
        """
        try:
            import pyarrow.parquet  # noqa: F401 - better now than with the first rows
        except ImportError as error:
            raise OptionError(
                f"A manifest needs pyarrow ({first_line(error)}); install it: pip install 'osediff[cluster]'."
            ) from error
        mine = json.loads(json.dumps({"version": __version__, **_identity(recipe), **names}))
        path = self.folder / "run.json"
        there = kind_of(path) if isinstance(path, Remote) else path.exists()
        text = read_bytes(path).decode("utf-8", "replace") if there else None
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

    def add(self, result: Result, node: str, attempt: int) -> None:
        """What became of a picture. Raises ImageError, DiskFull."""
        if self._new is not None:
            write_bytes(self.folder / "run.json", json.dumps(self._new, indent=2).encode())
            self._new = None
        said = {"node": node, "attempt": attempt, "run": self.run, "ended": time.time()}
        self._rows.append({**vars(result), **said})
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
        write_bytes(self.folder / f"{self.run}-{self._files:05}.parquet", data.getvalue())
        self._rows, self._files = [], self._files + 1


def schema() -> Any:  # noqa: ANN401 - pyarrow's, which is imported late
    """The columns: those of a record, in `more` as JSON what only some commands say, and the node, the attempt and the
    run it came from, and when it came to its end (seconds, UTC).
    """
    import pyarrow as pa

    size = pa.list_(pa.int32())
    texts = {
        name: pa.string()
        for name in ("input", "output", "status", "error", "kind", "prompt", "more", "node", "run")
    }
    return pa.schema(
        {
            **texts,
            "seconds": pa.float64(),
            "ended": pa.float64(),
            "input_size": size,
            "output_size": size,
            "attempt": pa.int32(),
        }
        | {"notes": pa.list_(pa.string())}
    )


def read_manifest(folder: Place) -> list[dict[str, Any]]:
    """One row for each picture: of several the best, done before skipped before failed. Raises ImageError."""
    import pyarrow.parquet

    if isinstance(folder, Remote):
        files: list[Place] = [path for path, _ in files_below(folder, recursive=False)]
    else:
        files = [*sorted(folder.glob("*"))]
    best: dict[str, dict[str, Any]] = {}
    for path in files:
        if path.suffix != ".parquet":
            continue
        for row in pyarrow.parquet.read_table(io.BytesIO(read_bytes(path))).to_pylist():
            other = best.get(row["input"])
            if other is None or _RANK.get(row["status"], 0) < _RANK.get(other["status"], 0):
                best[row["input"]] = row
    return list(best.values())


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Names may hold bytes that are no text, which parquet cannot; what has no column goes into `more`."""
    columns = set(schema().names)
    more = {name: value for name, value in row.items() if name not in columns and value is not None}
    told = {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in row.items()
        if name in columns
    }
    return told | {"more": json.dumps(more) if more else None}


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe the results depend on; files of weights by their content."""
    found = {name: value for name, value in options_of(recipe).items() if name not in _NO_MATTER}
    named = {one: found.get(one) for one in ("base", "weights", "decoder", "dape", "ram", "preset")}
    files = {one: _mark(name) for one, name in named.items() if name}
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
