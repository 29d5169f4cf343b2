"""The check on every error that a user may meet: of the right kind, and one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(
    kind: type[Exception], *words: object, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block must raise `kind`, whose message is one sentence, has these words and matches the pattern."""
    with pytest.raises(kind, match=match) as caught:
        yield caught
    message = str(caught.value)
    assert message.endswith((".", "?")) and "\n" not in message, message
    for word in words:
        assert str(word) in message, message
