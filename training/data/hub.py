"""Hugging Face data sets: tables that can be read in any order, and streams that cannot."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from osediff_core.errors import first_line

from .config import SourceConfig
from .errors import DataError
from .sampler import Purpose, Row, generator

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


class TableSource:
    """A data set in memory or Arrow files, by row."""

    def __init__(self, config: SourceConfig) -> None:
        self._path, self.skipped = config.path, {}
        table, self._image = _load(config)
        self._table = table.select(range(min(config.limit, len(table)))) if config.limit else table
        has_captions = config.caption_column in table.column_names
        # A table of its own: a caption must not cost a picture.
        self._captions = self._table.select_columns([config.caption_column]) if has_captions else None
        self._caption = config.caption_column

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        """PATH[row]."""
        return f"{self._path}[{index}]"

    def read(self, index: int) -> bytes:
        """The encoded picture of a row."""
        return _bytes(self._table[index][self._image])

    def caption(self, index: int) -> str | None:
        """The caption column, if there is one."""
        return None if self._captions is None else _text(self._captions[index][self._caption])


class Stream:
    """An endless stream of pictures, shuffled in windows, with a state to go on from.

    Every rank reads its own share. A window is the next `config.window` rows, in an order drawn from the seed; as many
    encoded pictures are held in memory. The order of the shards stays as it is.
    """

    def __init__(self, config: SourceConfig, number: int, seed: int, rank: int, world: int) -> None:
        from datasets.distributed import split_dataset_by_node

        rows, self._image = _load(config)
        rows = rows.take(config.limit) if config.limit else rows
        self._rows = split_dataset_by_node(rows, rank=rank, world_size=world)
        self._config, self._key = config, (seed, Purpose.WINDOW, number)
        self._beginning = self._rows.state_dict()
        self._start: dict[str, Any] | None = None  # of the window; None: the beginning
        self._epoch = self._number = self._position = 0

    def state(self) -> dict[str, Any]:
        """JSON-able: where the window began, and how far it is read."""
        return {
            "start": self._start,
            "epoch": self._epoch,
            "number": self._number,
            "position": self._position,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`: its window is read again by the next `rows`."""
        self._start, self._epoch = state["start"], state["epoch"]
        self._number, self._position = state["number"], state["position"]

    def rows(self) -> Iterator[tuple[Row, list[Row]]]:
        """(next picture, its window) without end. Raises DataError for a stream without any row."""
        while True:
            self._rows.load_state_dict(self._start or self._beginning)
            rows = iter(self._rows)
            while window := self._window(rows):
                order = generator(*self._key, self._epoch, self._number).permutation(len(window))
                while self._position < len(window):
                    self._position += 1
                    yield window[order[self._position - 1]], window
                self._start, self._position = _plain(self._rows.state_dict()), 0
                self._number += 1
            if self._number == 0:
                raise DataError(
                    f"There is no picture for every process in {self._config.path}; give a source with some."
                )
            self._epoch, self._number, self._start = self._epoch + 1, 0, None

    def _window(self, rows: Iterator[dict[str, Any]]) -> list[Row]:
        place = f"{self._config.path}[epoch {self._epoch}, window {self._number}, row"
        found = []
        for index, row in enumerate(_explained(islice(rows, self._config.window), self._config.path)):
            try:
                data = _bytes(row[self._image])
            except OSError:
                data = b""  # the pair maker reports it as empty
            name = row.get("__key__") or f"{place} {index}]"
            found.append(Row(str(name), data, _text(row.get(self._config.caption_column))))
        return found


def _explained(rows: Iterator[dict[str, Any]], path: str) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # readers of many formats, each with its own errors
        raise DataError(
            f"The data set {path} cannot be read on ({type(error).__name__}: {first_line(error)}); check its files."
        ) from error


def _load(config: SourceConfig) -> tuple[Any, str]:
    """A Dataset, or for streaming an IterableDataset, of encoded pictures; and the column that holds them."""
    try:
        import datasets
        import datasets.config
    except ImportError as error:
        raise DataError("Data sets need the package `datasets`; pip install 'osediff[train]'.") from error
    try:
        with nullcontext() if config.allow_download else _offline(datasets.config):
            found = _open(datasets, config)
        column = _image_column(datasets, found, config)
        return found.cast_column(column, datasets.Image(decode=False)), column
    except DataError:
        raise
    except Exception as error:  # `datasets` raises many kinds; all mean that it cannot be used
        hint = "check path, split and image_column"
        if not config.allow_download and not Path(config.path).exists() and not glob.glob(config.path):
            hint = "it is neither here nor in the cache: set allow_download on the source to fetch it from the hub"
        raise DataError(
            f"The data set {config.path} cannot be read ({type(error).__name__}: {first_line(error)}); {hint}."
        ) from error


def _open(datasets: Any, config: SourceConfig) -> Any:  # noqa: ANN401 - the optional module; a data set
    path = Path(config.path)
    files = [config.path] if path.is_file() else sorted(glob.glob(config.path))
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        found = datasets.load_from_disk(config.path)
        found = found[config.split] if isinstance(found, datasets.DatasetDict) else found
        return found.to_iterable_dataset() if config.streaming else found
    builder = _BUILDERS.get(path.suffix.lower())
    if builder and not path.is_dir():
        if not files:
            raise DataError(f"No {path.suffix} file fits {config.path}; mend data.sources.")
        return datasets.load_dataset(builder, data_files=files, split="train", streaming=config.streaming)
    return datasets.load_dataset(config.path, split=config.split, streaming=config.streaming)


@contextmanager
def _offline(settings: Any) -> Iterator[None]:  # noqa: ANN401 - the module datasets.config
    """Local files only, and no count of the load at the hub."""
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before


def _image_column(datasets: Any, found: Any, config: SourceConfig) -> str:  # noqa: ANN401 - as above
    features = found.features or {}
    if config.image_column is not None:
        if features and config.image_column not in features:
            raise DataError(
                f"The data set {config.path} has no column {config.image_column!r}; choose image_column among "
                f"{', '.join(features)}."
            )
        return config.image_column
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    column = (*pictures, "image")[0]
    if features and column not in features:
        raise DataError(
            f"The data set {config.path} has no column of pictures; name one of {', '.join(features)} as image_column."
        )
    return column


def _bytes(image: dict[str, Any] | None) -> bytes:
    """Raises OSError for a file that is not there."""
    if image is None:
        return b""
    if image.get("bytes") is not None:
        return image["bytes"]
    return Path(image["path"]).read_bytes() if image.get("path") else b""


def _text(value: object) -> str | None:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value.strip() if isinstance(value, str) else None


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """A copy in types that JSON has, which reading on does not change."""
    return json.loads(json.dumps(state))
