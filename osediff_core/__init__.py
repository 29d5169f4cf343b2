"""OSEDiff: one-step diffusion for real-world image super-resolution (arXiv 2406.08177).

    from osediff_core import OneStepGenerator, RestoreOptions, read_image, restore_picture, write_image

    generator = OneStepGenerator.load("tiny")
    write_image("out.png", restore_picture(generator, read_image("in.jpg"), RestoreOptions(scale=4)))

The names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import OSEDiffError
    from .generator import OneStepGenerator
    from .images.files import Picture, read_image, write_image
    from .pipeline import RestoreOptions, restore_picture

__version__ = "0.1.0"

_HOME = {
    "OSEDiffError": ".errors",
    "OneStepGenerator": ".generator",
    "Picture": ".images.files",
    "read_image": ".images.files",
    "write_image": ".images.files",
    "RestoreOptions": ".pipeline",
    "restore_picture": ".pipeline",
}

__all__ = [
    "OSEDiffError",
    "OneStepGenerator",
    "Picture",
    "RestoreOptions",
    "__version__",
    "read_image",
    "restore_picture",
    "write_image",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
