"""Damage: bytes, JSON values, chunks of PNG and records of zip, changed as accidents and as malice would."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
import zlib
from random import Random
from typing import Any

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 2**63, 10**30, 10**400),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "abc",
        "0",
        "1e9",
        "NaN",
        "\x1b[31m\nosediff: fine",
        "a" * 5000,
        "\ud800",
        "ﬀ",
        "\u202e",
        "\0",
    ),
    *("../../x", "/etc/passwd", "kernels-community/x", "os.system"),
    *([], [[]], [None], [0] * 1000, [1e308], {}, {"a": {}}, {"": None}),
]
_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def damaged(data: bytes, rng: Random) -> bytes:
    """Bytes changed, cut, repeated, removed, added, or numbers put in; one to four times."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        if rng.random() < 0.6:  # what says how to read the rest stands at the beginning, mostly
            place = min(place, rng.randrange(1, 600))
        length = rng.choice((1, 2, 8, 64, 1024))
        match rng.randrange(7):
            case 0:
                for _ in range(length):
                    if out:
                        out[rng.randrange(max(1, min(len(out), place + length)))] = rng.randrange(256)
            case 1:
                del out[place:]
            case 2:
                out[place:place] = out[place : place + length]
            case 3:
                del out[place : place + length]
            case 4:
                out[place : place + length] = bytes(length)
            case 5:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS) % (1 << (8 * size))
                out[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case _:
                out[place:place] = rng.randbytes(length)
    return bytes(out)


def changed_json(value: Any, rng: Random) -> Any:
    """A copy with one or two values replaced, removed, renamed, wrapped or added anywhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(value))
        if not places:
            return rng.choice(HOSTILE)
        holder, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(rng.choice(HOSTILE))[:300]] = holder.pop(key)
            case 2:
                deep: Any = holder[key]
                for _ in range(rng.choice((1, 70, 150))):
                    deep = [deep] if rng.random() < 0.5 else {"a": deep}
                holder[key] = deep
            case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
                holder[key] = rng.choice(
                    [holder[key] * 2, -holder[key], holder[key] + 1, str(holder[key]), [holder[key]]]
                )
            case _:
                holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def json_bytes(value: Any) -> bytes:
    """As text, whatever Python lets through."""
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield value, key
        yield from _places(below)


def changed_safetensors(data: bytes, rng: Random) -> bytes:
    """The header's JSON changed; the length mostly mended."""
    (length,) = struct.unpack("<Q", data[:8])
    header = changed_json(json.loads(data[8 : 8 + length]), rng)
    text = json_bytes(header)
    size = len(text) if rng.random() < 0.9 else rng.choice(_NUMBERS)
    return struct.pack("<Q", size) + text + data[8 + length :]


def changed_png(data: bytes, rng: Random) -> bytes:
    """A chunk damaged, doubled, removed or renamed, its checksum mended."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    match rng.randrange(6):
        case 0:
            del chunks[index]
        case 1:
            chunks.insert(index, chunks[index])
        case 2:
            names = (b"cICP", b"gAMA", b"cHRM", b"iCCP", b"tRNS", b"PLTE", b"acTL", b"eXIf", b"zTXt", b"sRGB")
            chunks.insert(
                rng.randrange(len(chunks)), (rng.choice(names), rng.randbytes(rng.choice((0, 1, 4, 32, 768))))
            )
        case 3 if kind == b"IDAT":
            chunks[index] = kind, zlib.compress(damaged(zlib.decompress(content), rng))
        case 4:
            chunks[0] = b"IHDR", damaged(chunks[0][1], rng)[:13].ljust(13, b"\0")
        case _:
            chunks[index] = kind, damaged(content, rng)
    body = b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )
    return data[:8] + body


class Calls:
    """A pickle that would call a function; none that does harm."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


def changed_torch(data: bytes, rng: Random) -> bytes:
    """A record of the zip damaged, replaced, added, or all compressed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = (
        next(n for n in records if n.endswith("data.pkl"))
        if rng.random() < 0.7
        else rng.choice(list(records))
    )
    kind = zipfile.ZIP_STORED
    match rng.randrange(6):
        case 0:
            kind = zipfile.ZIP_DEFLATED
        case 1:
            records[name] = pickle.dumps(
                rng.choice(
                    [
                        {"a": Calls(eval, "1")},
                        [Calls(print, "ran")],
                        {"state_dict": {"w": Calls(len, "x")}},
                        3,
                        {"a": [[]]},
                    ]
                ),
                rng.choice((2, 4)),
            )
        case 2:
            del records[name]
        case 3:
            records[f"archive/{rng.choice(('extra.pkl', 'constants.pkl', 'data/99', '../x'))}"] = (
                rng.randbytes(20)
            )
        case _:
            records[name] = damaged(records[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()
