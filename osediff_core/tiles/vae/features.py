"""Feature maps in horizontal bands, each of them kept in memory or on disk, as memory allows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...layers import Span
from .spill import Spill


class FeatureStore:
    """Keeper of feature maps: so many bytes of them stay in memory, what is beyond goes to a file in `folder`.

    Two memories: the device's, and behind an accelerator the host's.
    """

    def __init__(self, device: torch.device, device_bytes: int, host_bytes: int, folder: Path | None) -> None:
        self.device = device
        self.folder = folder
        self._left = {device: device_bytes}
        if device.type != "cpu":
            self._left[torch.device("cpu")] = host_bytes
        self._spill: Spill | None = None

    def keep(self, band: Tensor) -> _Band:
        """Keeps a band, computed on the device, where there is memory for it. Raises OutOfDisk."""
        size = band.numel() * band.element_size()
        for device, left in self._left.items():
            if size <= left:
                self._left[device] -= size
                return _InMemory(band.to(device), device, self)
        if self._spill is None:
            self._spill = Spill(self.folder)
        return _OnDisk(band.to("cpu"), self._spill, self.device)

    def give_back(self, device: torch.device, size: int) -> None:
        """That many bytes of memory are free again."""
        self._left[device] += size

    @property
    def bytes_on_disk(self) -> int:
        """The size of the file at the moment."""
        return self._spill.size if self._spill else 0

    @property
    def most_on_disk(self) -> int:
        """The largest size it ever had."""
        return self._spill.most if self._spill else 0


class _InMemory:
    """device: as the store calls it, which a tensor may name otherwise ("mps", "mps:0")."""

    def __init__(self, tensor: Tensor, device: torch.device, store: FeatureStore) -> None:
        self._tensor, self._device, self._store = tensor, device, store

    def load(self) -> Tensor:
        return self._tensor.to(self._store.device, non_blocking=True)

    def free(self) -> None:
        self._store.give_back(self._device, self._tensor.numel() * self._tensor.element_size())
        del self._tensor


class _OnDisk:
    def __init__(self, tensor: Tensor, spill: Spill, device: torch.device) -> None:
        self._shape, self._dtype, self._spill, self._device = tensor.shape, tensor.dtype, spill, device
        self._place = spill.write(tensor)

    def load(self) -> Tensor:
        tensor = torch.empty(self._shape, dtype=self._dtype)
        self._spill.read(self._place, tensor)
        return tensor.to(self._device)

    def free(self) -> None:
        self._spill.give_back(self._place)


_Band = _InMemory | _OnDisk


class FeatureMap:
    """(1, channels, height, width) on the way from one sweep to the next.

    Bands are put in from the top down, and may be dropped from the top down while the next map grows.
    """

    def __init__(
        self, channels: int, height: int, width: int, dtype: torch.dtype, store: FeatureStore
    ) -> None:
        self.channels, self.height, self.width, self.dtype = channels, height, width, dtype
        self._store = store
        self._bands: dict[Span, _Band] = {}
        self._loaded: dict[Span, Tensor] = {}

    def new_band(self, rows: Span) -> Tensor:
        """Empty memory (1, channels, rows, width) to be filled and then given to `put`."""
        shape = (1, self.channels, rows.length, self.width)
        return torch.empty(shape, dtype=self.dtype, device=self._store.device)

    def put(self, rows: Span, band: Tensor) -> None:
        """Takes over a filled band."""
        self._bands[rows] = self._store.keep(band)

    def pieces(self, rows: Span, columns: Span) -> list[Tensor]:
        """The window as views (1, C, some rows, columns) on the device, from top to bottom."""
        found = []
        for span, band in self._bands.items():
            start, stop = max(rows.start, span.start), min(rows.stop, span.stop)
            if start < stop:
                if span not in self._loaded:
                    self._loaded[span] = band.load()
                tensor = self._loaded[span]
                found.append(tensor[:, :, start - span.start : stop - span.start, slice(*columns)])
        return found

    def unload(self, row: int) -> None:
        """No window will begin above `row` in this sweep: what was fetched from elsewhere can go."""
        for span in [span for span in self._loaded if span.stop <= row]:
            del self._loaded[span]

    def drop(self, row: int) -> None:
        """Nothing above `row` will ever be asked for again."""
        self.unload(row)
        for span in [span for span in self._bands if span.stop <= row]:
            self._bands.pop(span).free()


class WholeTensor:
    """A tensor (1, C, H, W), somewhere, that is read or written like a feature map: the walk's two ends."""

    def __init__(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self.tensor, self.device, self.dtype = tensor, device, dtype
        self.channels, self.height, self.width = tensor.shape[1:]

    def new_band(self, rows: Span) -> Tensor:
        """The place itself."""
        return self.tensor[:, :, slice(*rows)]

    def put(self, rows: Span, band: Tensor) -> None:
        """Nothing: the band was written in its place."""

    def pieces(self, rows: Span, columns: Span) -> list[Tensor]:
        """The window, on the device, in the network's dtype."""
        return [self.tensor[:, :, slice(*rows), slice(*columns)].to(self.device, self.dtype)]

    def unload(self, row: int) -> None:
        """Nothing is fetched from elsewhere."""

    def drop(self, row: int) -> None:
        """It belongs to the caller."""
