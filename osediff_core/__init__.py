"""OSEDiff: one-step diffusion for real-world image super-resolution (arXiv 2406.08177).

    from osediff_core import OneStepGenerator, RestoreOptions, read_image, restore_picture, write_image

    generator = OneStepGenerator.load("tiny")
    write_image("out.png", restore_picture(generator, read_image("in.jpg"), RestoreOptions(scale=4)))

The names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .late import loading
from .version import __version__

if TYPE_CHECKING:
    from .direct.load import load_model
    from .errors import OSEDiffError
    from .generator import OneStepGenerator
    from .images import Picture, read_image, write_image
    from .pipeline import RestoreOptions, restore_picture

__getattr__ = loading(
    __name__,
    {
        "OSEDiffError": ".errors",
        "OneStepGenerator": ".generator",
        "load_model": ".direct.load",
        "Picture": ".images",
        "read_image": ".images",
        "write_image": ".images",
        "RestoreOptions": ".pipeline",
        "restore_picture": ".pipeline",
    },
)

__all__ = [
    "OSEDiffError",
    "OneStepGenerator",
    "Picture",
    "RestoreOptions",
    "__version__",
    "load_model",
    "read_image",
    "restore_picture",
    "write_image",
]


def __dir__() -> list[str]:
    return sorted(__all__)
