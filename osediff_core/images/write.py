"""`Picture` to image files: PNG and TIFF of 8 and 16 bits, WebP and JPEG of 8."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..atomic import write_bytes_atomically
from ..choices import JPEG_QUALITY
from ..errors import ImageError, writing
from .formats import WRITE_FORMATS
from .metadata import Metadata, exif_bytes, png_resolution, tiff_options
from .picture import Picture
from .png import with_chunks
from .tiff import encode_tiff

_MAX_SIDE = {"JPEG": 65535, "WEBP": 16383}  # limits of the file formats


def check_format(path: str | os.PathLike[str], size: tuple[int, int] = (1, 1), alpha: bool = False) -> str:
    """The file format that the suffix of `path` names: "PNG", "JPEG", "WEBP" or "TIFF".

    Raises ImageError if there is none, or if that format cannot hold a picture of `size` (width, height) or
    one with alpha: better before the work than after it.
    """
    path = Path(path)
    file_format = WRITE_FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ImageError(f"{path} has no suffix of an image format; use .png, .tif, .webp or .jpg.")
    limit = _MAX_SIDE.get(file_format)
    if limit is not None and max(size) > limit:
        raise ImageError(
            f"{path} would be {size[0]}x{size[1]} pixels, but {file_format} ends at {limit}; use .png."
        )
    if alpha and file_format == "JPEG":
        raise ImageError(
            f"{path} cannot keep the transparency of its input, as JPEG has none; use .png or .webp."
        )
    return file_format


def write_image(
    path: str | os.PathLike[str], picture: Picture, *, quality: int = JPEG_QUALITY, metadata: bool = False
) -> None:
    """Writes `picture` in the format of the suffix; the file appears whole or not at all.

    PNG and TIFF keep 8 or 16 bits and are lossless, WebP is lossless with 8 bits, JPEG is written with 8 bits
    at `quality` (1 to 100) without chroma subsampling. The ICC profile goes along; metadata: so do EXIF and resolution,
    of a TIFF the texts among EXIF alone. Raises ImageError if the format cannot hold the picture or the file cannot be
    written, DiskFull if the disk takes no more.
    """
    path = Path(path)
    check_format(path, picture.size, picture.alpha is not None)
    write_file(path, encode_image(path.suffix, picture, quality=quality, metadata=metadata))


def write_file(path: Path, data: bytes) -> None:
    """Writes the bytes of an image file, whole or not at all; missing folders are made. Raises ImageError, DiskFull."""
    with writing(ImageError, f"{path} cannot be written", "choose another output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, data)


def encode_image(
    suffix: str, picture: Picture, *, quality: int = JPEG_QUALITY, metadata: bool = False
) -> bytes:
    """The bytes of such a file. suffix: a key of WRITE_FORMATS."""
    file_format = WRITE_FORMATS[suffix.lower()]
    kept = picture.metadata if metadata else None
    if file_format == "TIFF":
        return encode_tiff(
            picture.samples(), picture.icc, picture.alpha is not None, **(tiff_options(kept) if kept else {})
        )
    if file_format == "PNG" and picture.bits == 16:
        return _png16(picture, kept)
    options: dict[str, Any] = {}
    if kept is not None:
        options["exif"] = exif_bytes(kept, picture.size)
        options["dpi"] = kept.dpi
    if file_format == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    if file_format == "WEBP":
        # exact=True: keep the colours under full transparency too
        options |= {"lossless": True, "exact": True}
        if picture.single_channel:  # WebP has no grey mode, and a profile for grey would not describe its RGB
            picture = replace(picture, single_channel=False, icc=None)
    return _pillow(picture, file_format, {key: value for key, value in options.items() if value is not None})


def _pillow(picture: Picture, file_format: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.samples(8)).save(buffer, file_format, icc_profile=picture.icc, **options)
    return buffer.getvalue()


def _png16(picture: Picture, kept: Metadata | None) -> bytes:
    """By imagecodecs, which has no option for what lies beside the pixels."""
    import zlib

    import imagecodecs

    added: list[tuple[bytes, bytes]] = []
    if picture.icc:
        added.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    exif = None if kept is None else exif_bytes(kept, picture.size)
    if kept is not None and kept.dpi:
        added.append((b"pHYs", png_resolution(kept.dpi)))
    if exif:
        added.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    return with_chunks(bytes(imagecodecs.png_encode(picture.samples())), *added)
