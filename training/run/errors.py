"""Errors of a training run that a user may meet: one sentence each, what is wrong and what to do."""

from __future__ import annotations

from osediff_core.errors import OSEDiffError


class TrainingError(OSEDiffError):
    """A run cannot start, go on, or save what it has."""


class NonFiniteLossError(TrainingError):
    """A loss or a gradient became NaN or infinite; the batch that did it was saved."""
