"""Validation of a tagger on fixed pairs: its tags of degraded pictures against the teacher's of the good ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osediff_core.dape.network import TaggerNetwork
from osediff_core.dape.preprocess import preprocess
from osediff_core.dape.tags import TagTable

from ..data.fixed_pairs import ValidationPair, read_pairs
from ..data.pictures import to_tensor
from ..run.config import PairsConfig
from ..run.start import Run
from ..run.updater import Updater
from ..steps import autocast
from .adapters import DapeAdapters
from .config import DapeConfig
from .step import distances, seen

Seen = tuple[Tensor, Tensor]


def chosen_pairs(chosen: PairsConfig) -> list[ValidationPair]:
    """The pairs that the settings name, if any. Raises OSEDiffError."""
    if chosen.path is None:
        return []
    return read_pairs(Path(chosen.path), chosen.limit, chosen.size, 1, preset=chosen.preset)[0]


class TagValidation:
    """Compares student and teacher on `pairs`."""

    def __init__(
        self,
        run: Run[DapeConfig],
        network: TaggerNetwork,
        adapters: DapeAdapters,
        student: Updater,
        pairs: Sequence[ValidationPair],
    ) -> None:
        self._run, self._network, self._adapters, self._student = run, network, adapters, student
        self._pairs, self._thresholds = list(pairs), torch.tensor(TagTable.of(network.config).thresholds)

    @torch.no_grad()
    def run(self, _step: int) -> dict[str, float] | None:
        """The figures of the averaged weights; None without pairs.

        features, logits, loss (their sum) as in training; precision, recall and f1 of the tags over all pictures, those
        of the teacher being the right ones; tags, how many the student gives a picture.
        """
        if not self._pairs:
            return None
        self._network.eval()
        with self._student.averaged():
            mine = [self._compared(pair) for pair in self._pairs[self._run.rank :: self._run.world]]
        rows = self._run.of_all(mine)
        means = {name: sum(row[name] for row in rows) / len(rows) for name in ("features", "logits")}
        hits, given, right = (sum(row[name] for row in rows) for name in ("hits", "given", "right"))
        return means | {
            "loss": sum(means.values()),
            "precision": hits / given if given else 0.0,
            "recall": hits / right if right else 0.0,
            "f1": 2 * hits / (given + right) if given + right else 0.0,
            "tags": given / len(rows),
        }

    def _compared(self, pair: ValidationPair) -> dict[str, float]:
        """The distances, and how many tags the student gave, should have given, and had right."""
        found, wanted = self._seen(pair.lq), self._taught(pair.hq)
        tags, true = (self._tags(logits) for _, logits in (found, wanted))
        terms = {name: float(value) for name, value in distances(found, wanted).items()}
        return terms | {"hits": int((tags & true).sum()), "given": int(tags.sum()), "right": int(true.sum())}

    def _seen(self, picture: np.ndarray) -> Seen:
        """Embeddings and logits of uint8 (H, W, 3)."""
        image, device = to_tensor(picture[None]), self._run.device
        with autocast(device, self._run.config.precision):
            return seen(self._network, preprocess(image.to(device), self._network.config.image_size))

    def _taught(self, picture: np.ndarray) -> Seen:
        with self._adapters.off():
            return self._seen(picture)

    def _tags(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid().cpu() > self._thresholds
