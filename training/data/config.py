"""Where training pictures come from and what becomes of them, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict


@dataclass(frozen=True)
class SourceConfig:
    """One source of pictures."""

    path: str
    kind: Literal["auto", "folder", "list", "shards", "dataset"] = "auto"
    weight: float = 1.0
    limit: int = 0

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class DataConfig:
    """All sources, and the pairs made of them."""

    sources: tuple[SourceConfig, ...]
    resolution: int = 512

    __pydantic_config__ = ConfigDict(extra="forbid")
