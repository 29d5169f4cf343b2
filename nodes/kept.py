"""What boxes have loaded, kept from one run to the next as long as ComfyUI keeps one of the boxes.

ComfyUI keeps results by what they are made from; what a box loads would be made from the picture, too, and be loaded
again for each. But it keeps a node's instance while the node stands in the graph, and lets go of it when it is told to
free its cache, or has none. As long as an instance lives, so does what is kept here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import TypeVar

Loaded = TypeVar("Loaded")

_boxes: weakref.WeakSet[object] = weakref.WeakSet()


class Kept(dict[Hashable, Loaded]):
    """Things of one kind by what they were loaded from, the one used last at the end."""

    def get_or_load(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """As many are kept as boxes live."""
        if key in self:
            self[key] = self.pop(key)
            return self[key]
        while len(self) >= max(1, len(_boxes)):
            del self[next(iter(self))]
        self[key] = load()
        return self[key]


def keep_for(box: object, *kinds: Kept) -> None:
    """Nothing of these kinds is kept once this node's instance and all others are gone."""

    def forget() -> None:
        if not _boxes:
            for kind in kinds:
                kind.clear()

    _boxes.add(box)
    weakref.finalize(box, forget)
