"""Results of DAPE's training: the averaged LoRA as others read it, and the whole tagger with it."""

from __future__ import annotations

from pathlib import Path

from osediff_core.atomic import write_bytes_atomically
from osediff_core.dape.weights import TaggerWeights, write_tagger
from osediff_core.weights.one_step_weights import LoRAPair

from ..run.updater import Updater
from .adapters import DapeAdapters, pth_bytes, safetensors_bytes


class Results:
    """What a run writes of its student. whole: in which dtype the tagger itself is written, too, or "none"."""

    def __init__(self, tagger: TaggerWeights, adapters: DapeAdapters, student: Updater, whole: str) -> None:
        self._tagger, self._adapters, self._student, self._whole = tagger, adapters, student, whole

    def weights(self, step: int) -> bytes:
        """The content of a checkpoint's weights.safetensors: the LoRA."""
        return safetensors_bytes(self._pairs(), {"steps": str(step)})

    def write(self, folder: Path, step: int) -> None:
        """DAPE.pth, the same as weights.safetensors, and the whole tagger if asked for."""
        write_bytes_atomically(folder / "DAPE.pth", pth_bytes(self._pairs()))
        write_bytes_atomically(folder / "weights.safetensors", self.weights(step))
        if self._whole != "none":
            tagger = self._tagger
            whole = TaggerWeights(tagger.config, tagger.tensors, self._pairs(), metadata=tagger.metadata)
            write_tagger(folder / "tagger.safetensors", whole, self._whole)

    def _pairs(self) -> dict[str, LoRAPair]:
        with self._student.averaged():
            return self._adapters.pairs()
