"""Text from outside (names of files, metadata, what a library says) made fit for a line of a terminal, log or page."""

from __future__ import annotations

import re

# Control characters, line separators, and those that turn the direction of what follows: each can make a line say
# something else than is in it.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONGEST_WORD = 260  # characters: a name of 255 bytes stays whole
_LONGEST = 1500
_QUOTED = 80


def printable(text: str) -> str:
    r"""One line without control characters: these become escapes, as `\x1b` and `\n`."""
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def sentence(text: str) -> str:
    """As `printable`; words and texts that are too long to be read are cut in their middle."""
    words = (_cut(word, _LONGEST_WORD) for word in printable(text).split(" "))
    return _cut(" ".join(words), _LONGEST)


def quoted(value: object) -> str:
    """A value in quotation marks, for a message; a long one is cut."""
    return _cut(repr(value) if isinstance(value, str) else repr(str(value)), _QUOTED)


def _cut(text: str, most: int) -> str:
    """At most so many characters, without those in the middle."""
    if len(text) <= most:
        return text
    head = 2 * most // 3
    return f"{text[:head]}…{text[head + 1 - most :]}"
