"""What boxes have loaded, kept from one run to the next as long as ComfyUI keeps one of the boxes.

ComfyUI keeps results by what they are made from; the loaders that a box turns into stand behind the picture, too, and
would load again for each. But it keeps a node's instance while the node stands in the graph, and lets go of it when it
is told to free its cache, or has none. As long as an instance lives, so does what loaders keep here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

_boxes: weakref.WeakSet[object] = weakref.WeakSet()


class Kept:
    """Things of one kind by what they were loaded from, the one used last at the end; nothing where there is no box."""

    def __init__(self) -> None:
        self.things: dict[Hashable, Any] = {}
        _kinds.append(self)

    def get_or_load(self, key: Hashable, load: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever load gives
        """As many are kept as boxes live."""
        if key in self.things:
            self.things[key] = self.things.pop(key)
            return self.things[key]
        while self.things and len(self.things) >= len(_boxes):
            del self.things[next(iter(self.things))]
        loaded = load()
        if _boxes:
            self.things[key] = loaded
        return loaded


_kinds: list[Kept] = []


def keep_for(box: object) -> None:
    """What is loaded is kept while this node's instance lives."""
    _boxes.add(box)
    weakref.finalize(box, _forget)


def _forget() -> None:
    if not list(_boxes):  # its length counts the one that has just gone
        for kind in _kinds:
            kind.things.clear()
