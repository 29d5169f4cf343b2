"""Boxes of AVIF and HEIF files (ISO/IEC 14496-12): the colours that the main picture declares by numbers (nclx)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

Box = tuple[bytes, bytes]  # kind, body


def boxes(data: bytes) -> Iterator[Box]:
    """Those that lie one behind the other in `data`, as far as they are whole."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= len(data):
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        end = len(data) if size == 0 else start + size
        if (size and size < head) or end > len(data):
            return
        yield kind, data[start + head : end]
        start = end


def declared_colours(data: bytes) -> tuple[int, int] | None:
    """(primaries, transfer) of the main picture, numbers of ITU-T H.273; None where it declares none, or a profile."""
    try:
        properties = _properties(data)
    except (struct.error, IndexError, ValueError):
        return None
    colours = [body for kind, body in properties if kind == b"colr"]
    if any(body[:4] in (b"prof", b"rICC") for body in colours):
        return None
    found = next((body for body in colours if body[:4] == b"nclx" and len(body) >= 10), None)
    return None if found is None else struct.unpack_from(">HH", found, 4)


def _properties(data: bytes) -> list[Box]:
    """The properties of the main picture; all that there are where the file does not say which are its."""
    meta = _within(dict(boxes(data)).get(b"meta", b"")[4:])
    shared = _within(meta.get(b"iprp", b""))
    every = list(boxes(shared.get(b"ipco", b"")))
    primary = meta.get(b"pitm")
    links = shared.get(b"ipma")
    if primary is None or links is None:
        return every
    item = struct.unpack_from(">H" if primary[0] == 0 else ">I", primary, 4)[0]
    return [every[index - 1] for index in _linked(links, item) if 0 < index <= len(every)]


def _within(data: bytes) -> dict[bytes, bytes]:
    return dict(boxes(data))


def _linked(links: bytes, item: int) -> list[int]:
    """The numbers of an item's properties, from 1 (the box ipma)."""
    version, flags = links[0], links[3]
    count = struct.unpack_from(">I", links, 4)[0]
    at = 8
    for _ in range(count):
        found = struct.unpack_from(">I" if version else ">H", links, at)[0]
        at += 4 if version else 2
        length = links[at]
        at += 1
        wide = flags & 1
        numbers = struct.unpack_from(f">{length}{'H' if wide else 'B'}", links, at)
        at += length * (2 if wide else 1)
        if found == item:
            return [number & (0x7FFF if wide else 0x7F) for number in numbers]
    return []
