"""Image files to `Picture`: PNG, JPEG, WebP, TIFF and whatever else Pillow reads; 8 and 16 bits."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from ..errors import ImageError, first_line
from ..regular import check_regular, irregular
from .colour_space import ColourSpace, by_gamma, by_numbers, rendered
from .depth import stored_bits
from .formats import READ_SUFFIXES, WRITE_FORMATS, called
from .isobmff import declared_colours
from .metadata import colours_of, metadata_of
from .picture import Picture
from .png import chunks, is_png, profile, without_profile_and_texts
from .samples import samples_of
from .stored import Stored
from .tiff import is_tiff, read_tiff
from .write import check_format, write_image

__all__ = [
    "READ_SUFFIXES",
    "WRITE_FORMATS",
    "Picture",
    "check_format",
    "decode_image",
    "is_picture",
    "open_image",
    "read_image",
    "write_image",
]

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
    """Reads the first frame of an image file; see `decode_image`. Raises what `read_file` does, too."""
    return decode_image(read_file(path), str(path))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises ImageError with one sentence for a file that is missing or may not be read, and for a pipe or device.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not an image; {_GOOD_FORMATS}.")
        check_regular(path, ImageError, _GOOD_FORMATS)
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist; check the path.") from None
    except PermissionError:
        raise ImageError(f"{path} may not be read; change its permissions.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read ({first_line(error)}); check the path.") from error


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an image does; its pixels are not read."""
    try:
        if irregular(path):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path):
                return True
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError):
        return False


def decode_image(data: bytes, name: str) -> Picture:
    """The first frame of an image file's bytes, upright (EXIF orientation applied), with alpha and ICC profile.

    Grey, palette, CMYK and LAB files become RGB (CMYK and LAB through their ICC profile to sRGB). Colours that are
    declared without a profile get one, or become sRGB. Several frames or pages are said in `notes`. name: in messages.
    Raises ImageError with one sentence for bytes that are none, damaged, of another type, or of a kind that is not
    supported.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); save or download it again.")
    try:
        with warnings.catch_warnings():
            # large photos are legitimate input here; Pillow still refuses real decompression bombs
            warnings.simplefilter("ignore")
            return _picture(_read(data, name))
    except UnidentifiedImageError:
        raise ImageError(f"{name} is {called(name, data[:32])}; {_GOOD_FORMATS}.") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} has more pixels than is safe to open; cut it into parts or shrink it."
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        # Pillow's decoders raise all of these on damaged data
        raise ImageError(
            f"{name} cannot be decoded and may be damaged or cut short ({first_line(error)}); save or download it "
            "again."
        ) from error


def _read(data: bytes, name: str) -> Stored:
    if is_png(data):
        return _read_png(data, name)
    if not is_tiff(data):
        return _read_any(data, name)
    found = read_tiff(data, name)
    if found is not None:
        return found
    try:
        return _read_any(data, name)
    except UnidentifiedImageError:
        rare = read_tiff(data, name, always=True)
        if rare is None:
            raise
        return rare


def _read_png(data: bytes, name: str) -> Stored:
    found = {chunk.kind: chunk.body for chunk in chunks(data)}
    space, notes = None, []
    try:
        icc = profile(found)
    except ValueError as error:
        icc, notes = None, [str(error)]
    try:
        space = _png_colours(found)
    except ValueError as error:
        notes.append(str(error))
    if space is not None and space.said_by == "cICP" and not space.is_srgb:
        icc = None  # it comes before a profile (PNG, third edition, 4.3)
    if found.get(b"IHDR", b"")[8:9] == b"\x10":  # bits per channel
        stored = _read_png16(without_profile_and_texts(data))
    else:
        stored = _read_any(without_profile_and_texts(data), name)
    return Stored(
        stored.samples,
        stored.orientation,
        icc,
        stored.frames,
        space=None if icc else space or stored.space,
        metadata=stored.metadata,
        notes=tuple(notes),
    )


def _png_colours(found: dict[bytes, bytes]) -> ColourSpace | None:
    """Raises ValueError, a clause, where they are none."""
    cicp, gamma, chromaticities = found.get(b"cICP"), found.get(b"gAMA"), found.get(b"cHRM")
    if cicp is not None and len(cicp) == 4:
        return by_numbers(cicp[0], cicp[1], "cICP")
    if b"sRGB" in found:
        return None
    return by_gamma(
        int.from_bytes(gamma, "big") if gamma is not None and len(gamma) == 4 else None,
        struct.unpack(">8I", chromaticities)
        if chromaticities is not None and len(chromaticities) == 32
        else None,
    )


def _read_png16(data: bytes) -> Stored:
    import imagecodecs

    with Image.open(
        io.BytesIO(data)
    ) as image:  # Pillow for all but the pixels; it refuses decompression bombs here
        try:
            samples = imagecodecs.png_decode(data)
        except imagecodecs.PngError as error:
            raise OSError(first_line(error)) from error
        metadata = metadata_of(image)
        return Stored(
            samples,
            image.getexif().get(ExifTag.Orientation, 1),
            None,
            getattr(image, "n_frames", 1),
            space=colours_of(metadata),
            metadata=metadata,
        )


def _read_any(data: bytes, name: str) -> Stored:
    with open_image(data, name) as image:
        frames = getattr(image, "n_frames", 1)  # before load(), which may close the file
        bits = stored_bits(data, image.format)
        numbers = declared_colours(data) if data[4:8] == b"ftyp" else None
        metadata = metadata_of(image)
        image.load()
        orientation = image.getexif().get(ExifTag.Orientation, 1)  # TIFF is upright already after load()
        samples, icc = samples_of(image, image.info.get("icc_profile") or None)
        space, notes = None, ()
        try:
            space = by_numbers(*numbers, "nclx") if numbers else colours_of(metadata)
        except ValueError as error:
            notes = (str(error),)
        return Stored(samples, orientation, icc, frames, bits, None if icc else space, metadata, notes)


def open_image(data: bytes, name: str) -> Image.Image:
    """Pillow's image of a file's bytes, its pixels not yet read. name: in the message.

    Raises ImageError for 32 bits per channel, UnidentifiedImageError for no image and for EPS, and what Pillow raises.
    """
    image = Image.open(io.BytesIO(without_profile_and_texts(data) if is_png(data) else data))
    if image.format == "EPS":  # a program, which Pillow would hand to Ghostscript to run
        image.close()
        raise UnidentifiedImageError
    # Pillow's PGM reader has 16 bits in a mode of 32
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        image.close()
        raise ImageError(f"{name} has 32 bits per channel; save it with 8 or 16.")
    return image


def _picture(stored: Stored) -> Picture:
    samples, icc = stored.samples, stored.icc
    notes = stored.notes
    if stored.frames > 1:
        notes = (f"it holds {stored.frames} frames or pages; only the first is used", *notes)
    bits = 16 if samples.dtype == np.uint16 else 8
    if stored.bits > bits:
        keep = "; 16-bit PNG and TIFF keep all" if bits == 8 and stored.bits <= 16 else ""
        notes = (*notes, f"its {stored.bits} bits per channel are read as {bits}{keep}")
    samples = _UPRIGHT.get(stored.orientation, lambda a: a)(samples)
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
    if icc is None:
        colour, icc, said = rendered(colour, stored.space, 2**bits - 1)
        notes = (*notes, *said)
    return Picture(
        rgb=np.array(np.broadcast_to(colour, (*colour.shape[:2], 3))),
        alpha=values[..., -1].copy() if has_alpha else None,
        bits=bits,
        single_channel=single_channel,
        icc=icc,
        notes=notes,
        metadata=stored.metadata,
    )
