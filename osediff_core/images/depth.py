"""Bits per channel of PPM, JPEG 2000 and AVIF files, of which Pillow keeps 8 in colour without a word."""

from __future__ import annotations

import re

_HEAD = 2**20  # bytes; a colour profile may lie before what is looked for


def stored_bits(data: bytes, file_format: str | None) -> int:
    """What the file has; 8 for any other format."""
    return _BITS[file_format](data[:_HEAD]) if file_format in _BITS else 8


def _ppm_bits(head: bytes) -> int:
    words = re.sub(rb"#[^\r\n]*[\r\n]", b"", head).split(maxsplit=4)  # P6, width, height, highest value
    return int(words[3]).bit_length() if words[0] in (b"P3", b"P6") and len(words) > 3 else 8


def _jpeg2000_bits(head: bytes) -> int:
    start = head.find(b"\xff\x4f\xff\x51")  # the codestream and its SIZ segment, with a sign and bits - 1
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8


def _avif_bits(head: bytes) -> int:
    start = head.find(b"av1C")  # the decoder's configuration, with a flag for more than 8 bits and one for 12
    flags = head[start + 6] if 0 <= start < len(head) - 6 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


_BITS = {"PPM": _ppm_bits, "JPEG2000": _jpeg2000_bits, "AVIF": _avif_bits}
