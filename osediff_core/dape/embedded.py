"""The tagger that comes with the package: tiny DAPE, for examples, tests and demos (see tiny/README.md)."""

from __future__ import annotations

import os
from pathlib import Path

TINY = "tiny"
TINY_TAGGER = Path(__file__).parent / "tiny/tagger.safetensors"


def tagger_path(name: str | os.PathLike[str]) -> Path:
    """The file of a tagger: the embedded one for "tiny", else `name` itself."""
    return TINY_TAGGER if name == TINY else Path(name)
