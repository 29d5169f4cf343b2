"""The ports implemented with diffusers and transformers, and the loading of a base model into them."""

from __future__ import annotations

from .base import Base, load_base
from .source import Source, find_base

__all__ = ["Base", "Source", "find_base", "load_base"]
