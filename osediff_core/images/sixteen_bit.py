"""PNG and TIFF of 16 bits per channel with colour or alpha, which Pillow reduces to 8 bits without a word.

imagecodecs (PNG) and tifffile (TIFF) do it: both report damaged files and keep alpha, and neither replaces a user's
OpenCV, as a dependency on one of that library's four rival wheels would. They are imported when first needed.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from ..errors import ImageError, first_line

if TYPE_CHECKING:
    from tifffile import TiffPage

_HEAD = 2**20  # bytes; a colour profile may lie before what is looked for


class Stored(NamedTuple):
    """An image as it lies in its file: not yet upright, not yet float.

    samples: uint8 or uint16 (H, W[, 2|3|4]), alpha straight. orientation: the EXIF tag's value. icc: profile
    or None. frames: how many frames or pages the file holds. bits: per channel in the file, where samples
    have fewer.
    """

    samples: np.ndarray
    orientation: int
    icc: bytes | None
    frames: int
    bits: int = 8


def read_sixteen_bit(path: Path) -> Stored | None:
    """A PNG or TIFF with 16 bits per channel, uint16; None for any other file.

    Raises OSError for a damaged file, ImageError for a rare kind of TIFF.
    """
    with path.open("rb") as file:
        head = file.read(25)
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[24:] == b"\x10":  # the bit depth in IHDR
        return _read_png(path)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # TIFF and BigTIFF, either byte order
        return _read_tiff(path)
    return None


def _read_png(path: Path) -> Stored:
    import imagecodecs

    with Image.open(path) as image:  # Pillow for all but the pixels; it refuses decompression bombs here
        try:
            samples = imagecodecs.png_decode(path.read_bytes())
        except imagecodecs.PngError as error:
            raise OSError(first_line(error)) from error
        orientation = image.getexif().get(ExifTag.Orientation, 1)
        return Stored(samples, orientation, image.info.get("icc_profile"), getattr(image, "n_frames", 1))


def _read_tiff(path: Path) -> Stored | None:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if page.bitspersample != 16:
                return None
            limit = Image.MAX_IMAGE_PIXELS
            if limit and page.imagewidth * page.imagelength > 2 * limit:  # as Pillow for all else
                raise Image.DecompressionBombError
            samples = _straight(path, page, page.asarray())
            orientation = getattr(page.tags.get(274), "value", 1)
            return Stored(samples, orientation, page.iccprofile, len(file.pages))
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception as error:  # tifffile passes on whatever its decoders raise
        raise OSError(first_line(error)) from error


def _straight(path: Path, page: TiffPage, samples: np.ndarray) -> np.ndarray:
    """One page's array -> uint16 (H, W[, 2|3|4]): channels last, black is 0, alpha not premultiplied."""
    from tifffile import EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

    kind, extra = PHOTOMETRIC(page.photometric), page.extrasamples
    if page.planarconfig == PLANARCONFIG.SEPARATE and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    colours = {int(PHOTOMETRIC.MINISBLACK): 1, int(PHOTOMETRIC.MINISWHITE): 1, int(PHOTOMETRIC.RGB): 3}.get(
        kind
    )
    if samples.dtype != np.uint16 or samples.ndim not in (2, 3) or colours is None:
        called = getattr(kind, "name", kind)  # a number where tifffile has no name for it
        raise ImageError(
            f"{path} is a 16-bit TIFF of a rare kind ({samples.dtype}, {called}); save it as RGB or grey."
        )
    if samples.ndim == 2:
        samples = samples[..., None]
    colour = samples[..., :colours]
    if kind == PHOTOMETRIC.MINISWHITE:
        colour = 65535 - colour
    alphas = [i for i, kind in enumerate(extra) if kind in (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)]
    if not alphas and samples.shape[-1] == colours + 1:
        alphas = [0]  # some writers leave the tag out, or leave it unspecified
    if not alphas:
        return colour
    opacity = samples[..., colours + alphas[0], None]
    if extra and extra[alphas[0]] == EXTRASAMPLE.ASSOCALPHA:
        straight = colour.astype(np.float64) * 65535 / np.maximum(opacity, 1)
        colour = np.rint(np.clip(straight, 0, 65535)).astype(np.uint16)
    return np.concatenate([colour, opacity], axis=-1)


def stored_bits(path: Path, file_format: str | None) -> int:
    """Bits per channel of a PPM, JPEG 2000 or AVIF file, of which Pillow keeps 8 in colour; 8 for any other."""
    if file_format not in _BITS:
        return 8
    with path.open("rb") as file:
        return _BITS[file_format](file.read(_HEAD))


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


def encode_png(samples: np.ndarray, icc: bytes | None) -> bytes:
    """uint16 (H, W[, 2|3|4]) -> the bytes of a 16-bit PNG file."""
    import imagecodecs

    data = bytes(imagecodecs.png_encode(samples))
    return _with_icc(data, icc) if icc else data


def _with_icc(png: bytes, icc: bytes) -> bytes:
    """Puts an iCCP chunk behind IHDR (signature 8 bytes + IHDR 25), as the encoder has no option for it."""
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]


def encode_tiff(samples: np.ndarray, icc: bytes | None, has_alpha: bool) -> bytes:
    """uint8 or uint16 (H, W[, 2|3|4]) -> the bytes of a losslessly compressed TIFF file, alpha marked as straight."""
    import tifffile

    grey = samples.ndim == 2 or samples.shape[-1] == 2
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        samples,
        photometric="minisblack" if grey else "rgb",
        planarconfig=None if samples.ndim == 2 else "contig",
        extrasamples=["unassalpha"] if has_alpha else None,
        compression="zlib",
        predictor=True,
        iccprofile=icc,
        metadata=None,
    )
    return buffer.getvalue()
