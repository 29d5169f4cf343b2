"""Hugging Face data sets: tables that can be read in any order, and streams that cannot."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from osediff_core.errors import first_line

from .config import SourceConfig
from .errors import DataError


class TableSource:
    """A data set in memory or Arrow files, by row."""

    def __init__(self, config: SourceConfig) -> None:
        table = _load(config, streaming=False)
        self._table = table.select(range(min(config.limit, len(table)))) if config.limit else table
        self._config = config

    def __len__(self) -> int:
        return len(self._table)

    def name(self, index: int) -> str:
        """PATH[row]."""
        return f"{self._config.path}[{index}]"

    def read(self, index: int) -> bytes:
        """The encoded picture of a row."""
        return _bytes(self._table[index], self._config)

    def caption(self, index: int) -> str | None:
        """The caption column, if there is one."""
        return self._table[index].get(self._config.caption_column)


class Stream:
    """An endless stream of (name, encoded picture, caption), shuffled in windows, with a state to go on from.

    Every rank reads its own share. A window is the next `config.window` rows, in an order drawn from the seed.
    """

    def __init__(self, config: SourceConfig, seed: int, rank: int, world: int) -> None:
        from datasets.distributed import split_dataset_by_node

        self._config, self._seed = config, seed
        self._rows = split_dataset_by_node(_load(config, streaming=True), rank=rank, world_size=world)
        self._start: dict[str, Any] | None = None  # of the window; None: the beginning
        self._epoch = self._number = self._position = 0
        self._window: list[dict[str, Any]] = []

    def state(self) -> dict[str, Any]:
        """JSON-able: where the window began, and how far it is read."""
        return {
            "start": self._start,
            "epoch": self._epoch,
            "number": self._number,
            "position": self._position,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`: the window is read again."""
        self._start, self._epoch = state["start"], state["epoch"]
        self._number, self._position = state["number"], state["position"]
        self._window = []

    def __iter__(self) -> Iterator[tuple[str, bytes, str | None]]:
        while True:
            self._rows.load_state_dict(self._start)
            rows = iter(self._rows)
            while self._read_window(rows):
                order = np.random.default_rng([self._seed, self._epoch, self._number]).permutation(
                    len(self._window)
                )
                while self._position < len(order):
                    row = self._window[order[self._position]]
                    self._position += 1
                    name = f"{self._config.path}[epoch {self._epoch}, window {self._number}, row {self._position}]"
                    yield name, _bytes(row, self._config), row.get(self._config.caption_column)
                self._start, self._position = self._rows.state_dict(), 0
                self._number += 1
            if self._number == 0:
                raise DataError(f"There is no picture in {self._config.path}; give a source with some.")
            self._epoch, self._number = self._epoch + 1, 0
            self._start = None

    def _read_window(self, rows: Iterator[dict[str, Any]]) -> bool:
        self._window = list(islice(rows, self._config.window))
        return bool(self._window)


def _load(config: SourceConfig, streaming: bool) -> Any:  # noqa: ANN401 - a Dataset or IterableDataset
    try:
        import datasets
    except ImportError as error:
        raise DataError("Data sets need the package `datasets`; pip install 'osediff[train]'.") from error
    path = config.path
    files = sorted(glob.glob(path))
    try:
        if Path(path, "dataset_info.json").exists() and not streaming:
            found = datasets.load_from_disk(path)
        elif files and path.endswith((".parquet", ".tar")):
            builder = "parquet" if path.endswith(".parquet") else "webdataset"
            found = datasets.load_dataset(builder, data_files=files, split="train", streaming=streaming)
        elif Path(path).is_dir():
            found = datasets.load_dataset(path, split=config.split, streaming=streaming)
        elif config.allow_download:
            found = datasets.load_dataset(path, split=config.split, streaming=streaming)
        else:
            raise DataError(
                f"{path} is no folder or file here; set allow_download on the source to fetch it from the hub."
            )
        return found.cast_column(config.image_column, datasets.Image(decode=False))
    except DataError:
        raise
    except Exception as error:  # `datasets` raises many kinds; all mean that it cannot be used
        raise DataError(
            f"The data set {path} cannot be read ({type(error).__name__}: {first_line(error)}); check path, split and "
            "image_column."
        ) from error


def _bytes(row: dict[str, Any], config: SourceConfig) -> bytes:
    image = row[config.image_column]
    return image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()
