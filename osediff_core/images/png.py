"""PNG chunks: the profile and colours that a file declares, and the file without what Pillow would stumble over."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_PROFILE = 16 * 2**20  # bytes; a JPEG cannot hold more
_MOST_TEXT = 2**20  # bytes, Pillow's own limit, beyond which it refuses the whole file
_ORIENTATION = (
    b"XML:com.adobe.xmp\0",
    b"Raw profile type exif\0",
)  # texts that may say how to set it upright


class Chunk(NamedTuple):
    """start, end: of the whole chunk in the file, with its length and checksum."""

    kind: bytes
    body: bytes
    start: int
    end: int


def is_png(data: bytes) -> bool:
    """By its signature."""
    return data.startswith(SIGNATURE)


def chunks(data: bytes) -> Iterator[Chunk]:
    """Those of a PNG file that are whole, the pixels' without their bodies."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            return
        yield Chunk(kind, b"" if kind in (b"IDAT", b"fdAT") else data[start + 8 : end - 4], start, end)
        start = end


def without_profile_and_texts(data: bytes) -> bytes:
    """The file as Pillow takes it: it refuses one whose profile or text has more than 1 MB."""
    kept, before = [], 0
    for chunk in chunks(data):
        if chunk.kind == b"iCCP" or (
            chunk.kind in (b"tEXt", b"zTXt", b"iTXt") and not _says_orientation(chunk)
        ):
            kept.append(data[before : chunk.start])
            before = chunk.end
    return b"".join((*kept, data[before:])) if before else data


def _says_orientation(chunk: Chunk) -> bool:
    keyword = next((word for word in _ORIENTATION if chunk.body.startswith(word)), None)
    if keyword is None or len(chunk.body) > _MOST_TEXT:
        return False
    if chunk.kind == b"tEXt":
        return True
    rest = chunk.body[len(keyword) :]
    if chunk.kind == b"iTXt":
        if rest[:1] == b"\0":
            return True
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    try:
        return len(zlib.decompressobj().decompress(rest, _MOST_TEXT)) < _MOST_TEXT
    except zlib.error:
        return False


def profile(found: dict[bytes, bytes]) -> bytes | None:
    """The ICC profile among a file's chunks (kind -> body), or None. Raises ValueError, a clause, if it is no use."""
    body = found.get(b"iCCP")
    if body is None:
        return None
    packed = body.partition(b"\0")[2][1:]
    inflate = zlib.decompressobj()
    try:
        icc = inflate.decompress(packed, LARGEST_PROFILE)
    except zlib.error:
        raise ValueError("its ICC profile is damaged and left out") from None
    if inflate.unconsumed_tail:
        raise ValueError(f"its ICC profile of more than {LARGEST_PROFILE >> 20} MB is left out")
    return icc


def with_chunks(data: bytes, *added: tuple[bytes, bytes]) -> bytes:
    """The file with chunks of (kind, body) behind its header, where those about colours have to be."""
    made = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in added
    )
    behind = len(SIGNATURE) + 25  # IHDR
    return data[:behind] + made + data[behind:]
