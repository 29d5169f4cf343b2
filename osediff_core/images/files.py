"""Image files, to `Picture` and back: PNG, JPEG, WebP, TIFF and whatever else Pillow reads; 8 and 16 bits."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from ..atomic import write_bytes_atomically
from ..errors import ImageError, explained, first_line
from .picture import Picture
from .sixteen_bit import Stored, encode_png, encode_tiff, read_sixteen_bit, stored_bits

READ_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp .dib .gif .ppm .pgm .pbm .pnm .tga .jp2"
    " .avif".split()
)
WRITE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_MAX_SIDE = {"JPEG": 65535, "WEBP": 16383}  # limits of the file formats
_GOOD_FORMATS = "give a PNG, JPEG, WebP or TIFF file"

# EXIF orientation -> how to set the stored array upright
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def read_image(path: str | os.PathLike[str]) -> Picture:
    """Reads the first frame of an image file, upright (EXIF orientation applied), with alpha and ICC profile.

    Grey, palette, CMYK and LAB files become RGB (CMYK and LAB through their ICC profile to sRGB); several
    frames or pages are said in `notes`. Raises ImageError with one sentence for a file that is missing,
    empty, damaged, of another type, or of a kind that is not supported.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder, not an image; {_GOOD_FORMATS}.")
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes); save or download it again.")
        with warnings.catch_warnings():
            # large photos are legitimate input here; Pillow still refuses real decompression bombs
            warnings.simplefilter("ignore")
            return _picture(read_sixteen_bit(path) or _read_any(path))
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist; check the path.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that can be read; {_GOOD_FORMATS}.") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{path} has more pixels than is safe to open; cut it into parts or shrink it."
        ) from None
    except PermissionError:
        raise ImageError(f"{path} may not be read; change its permissions.") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        # Pillow's decoders raise all of these on damaged data
        raise ImageError(
            f"{path} is damaged or cut short ({first_line(error)}); save or download it again."
        ) from error


def _read_any(path: Path) -> Stored:
    with open_image(path) as image:
        frames = getattr(image, "n_frames", 1)  # before load(), which may close the file
        image.load()
        orientation = image.getexif().get(ExifTag.Orientation, 1)  # TIFF is upright already after load()
        samples, icc = _samples(image, image.info.get("icc_profile") or None)
        return Stored(samples, orientation, icc, frames, stored_bits(path, image.format))


def open_image(source: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """Pillow's image of a file, its pixels not yet read. name: in the message, the path by default.

    Raises ImageError for 32 bits per channel, UnidentifiedImageError for no image and for EPS, and what Pillow raises.
    """
    image = Image.open(source)
    if image.format == "EPS":  # a program, which Pillow would hand to Ghostscript to run
        image.close()
        raise UnidentifiedImageError
    # Pillow's PGM reader has 16 bits in a mode of 32
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        image.close()
        raise ImageError(f"{name or source} has 32 bits per channel; save it with 8 or 16.")
    return image


def _picture(stored: Stored) -> Picture:
    samples, orientation, icc, frames, stored_bits = stored
    notes = (f"it holds {frames} frames or pages; only the first is used",) if frames > 1 else ()
    bits = 16 if samples.dtype == np.uint16 else 8
    if stored_bits > bits:
        notes = (*notes, f"its {stored_bits} bits per channel are read as 8; 16-bit PNG and TIFF keep all")
    samples = _UPRIGHT.get(orientation, lambda a: a)(samples)
    values = samples.astype(np.float32) / np.float32(2**bits - 1)
    if values.ndim == 2:
        values = values[..., None]
    has_alpha = values.shape[-1] in (2, 4)
    colour = values[..., :-1] if has_alpha else values
    single_channel = colour.shape[-1] == 1
    if icc and icc[16:20] == b"RGB ":
        single_channel = False  # such a profile does not describe a file with one channel
    elif icc and (icc[16:20] != b"GRAY" or not single_channel):
        icc, notes = None, (*notes, "its ICC profile does not describe its colours and is left out")
    return Picture(
        rgb=np.array(np.broadcast_to(colour, (*colour.shape[:2], 3))),
        alpha=values[..., -1].copy() if has_alpha else None,
        bits=bits,
        single_channel=single_channel,
        icc=icc,
        notes=notes,
    )


def _samples(image: Image.Image, icc: bytes | None) -> tuple[np.ndarray, bytes | None]:
    """Any Pillow mode -> uint8 (H, W[, 2|3|4]), uint16 for 16-bit grey, and the ICC profile that fits them."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image.convert("I")).astype(np.uint16), icc
    if mode == "I":  # a PGM of 16 bits, see open_image
        return np.asarray(image).astype(np.uint16), icc
    if mode in ("CMYK", "LAB"):
        image, icc = _to_srgb(image, icc)
    elif "transparency" in image.info and mode in ("1", "L", "RGB", "P"):
        image = image.convert("LA" if mode in ("1", "L") else "RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image), icc


def _to_srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """CMYK or LAB -> RGB by the embedded profile, so that colours are those of print; else by Pillow's formula."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        if icc:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        elif image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            return image.convert("RGB"), None
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        return cast("Image.Image", converted), srgb.tobytes()  # None is for inPlace=True alone
    except (ImageCms.PyCMSError, OSError):  # a broken profile must not cost the picture
        return image.convert("RGB"), None


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


def write_image(path: str | os.PathLike[str], picture: Picture) -> None:
    """Writes `picture` in the format of the suffix; the file appears whole or not at all.

    PNG and TIFF keep 8 or 16 bits and are lossless, WebP is lossless with 8 bits, JPEG is written with 8 bits
    at quality 95 without chroma subsampling. The ICC profile goes along. Raises ImageError if the format
    cannot hold the picture or the file cannot be written.
    """
    path = Path(path)
    file_format = check_format(path, picture.size, picture.alpha is not None)
    encode = {"PNG": _png, "TIFF": _tiff, "JPEG": _jpeg, "WEBP": _webp}[file_format]
    data = encode(picture)
    with explained(ImageError, f"{path} cannot be written", "choose another output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, data)


def _pillow(picture: Picture, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture.samples(8)).save(buffer, file_format, icc_profile=picture.icc, **options)
    return buffer.getvalue()


def _png(picture: Picture) -> bytes:
    if picture.bits == 8:
        return _pillow(picture, "PNG")
    return encode_png(picture.samples(), picture.icc)


def _tiff(picture: Picture) -> bytes:
    return encode_tiff(picture.samples(), picture.icc, picture.alpha is not None)


def _jpeg(picture: Picture) -> bytes:
    return _pillow(picture, "JPEG", quality=95, subsampling=0)


def _webp(picture: Picture) -> bytes:
    if picture.single_channel:  # WebP has no grey mode, and a profile for grey would not describe its RGB
        picture = replace(picture, single_channel=False, icc=None)
    # exact=True: keep the colours under full transparency too
    return _pillow(picture, "WEBP", lossless=True, exact=True)
