"""Validation of a tagger on fixed pairs: its tags of degraded pictures against the teacher's of the good ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from osediff_core.dape.tags import TagTable

from ..data.pictures import to_tensor
from ..validate import ValidationPair
from .step import distances

Seen = tuple[Tensor, Tensor]


class TagValidation:
    """Compares on `pairs`; table: which score is a tag."""

    def __init__(self, pairs: Sequence[ValidationPair], table: TagTable) -> None:
        self.pairs, self.thresholds = list(pairs), torch.tensor(table.thresholds)

    @torch.no_grad()
    def run(self, student: Callable[[Tensor], Seen], teacher: Callable[[Tensor], Seen]) -> dict[str, float]:
        """student, teacher: image (1, 3, H, W) in [-1, 1] on the CPU -> embeddings and logits.

        Keys: features, logits, loss (their sum) as in training; precision, recall and f1 of the tags over all
        pictures, those of the teacher being the right ones; tags, how many the student gives a picture.
        """
        terms, hits, given, right = [], 0, 0, 0
        for pair in self.pairs:
            found, wanted = student(to_tensor(pair.lq[None])), teacher(to_tensor(pair.hq[None]))
            terms.append({name: float(value) for name, value in distances(found, wanted).items()})
            tags, true = (self._tags(logits) for _, logits in (found, wanted))
            hits, given, right = (
                hits + int((tags & true).sum()),
                given + int(tags.sum()),
                right + int(true.sum()),
            )
        means = {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}
        return means | {
            "loss": sum(means.values()),
            "precision": hits / given if given else 0.0,
            "recall": hits / right if right else 0.0,
            "f1": 2 * hits / (given + right) if given + right else 0.0,
            "tags": given / len(self.pairs),
        }

    def _tags(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid().cpu() > self.thresholds
