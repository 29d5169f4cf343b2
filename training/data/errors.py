"""What is wrong with the pictures of a run."""

from __future__ import annotations

from osediff_core.errors import OSEDiffError


class DataError(OSEDiffError):
    """A source of pictures, or a list of captions, cannot be used."""
