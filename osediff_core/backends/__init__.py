"""The ports implemented with diffusers and transformers, and the loading of a base model into them.

The names load on first use: finding a base's files needs neither of the two.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Base, load_base
    from .source import Source, find_base

_HOME = {"Base": ".base", "load_base": ".base", "Source": ".source", "find_base": ".source"}

__all__ = ["Base", "Source", "find_base", "load_base"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
