"""TIFF by tifffile: what Pillow cannot read, or reads with fewer bits than there are; written with all of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import ImageError, first_line
from ..interrupts import pass_on
from .metadata import Metadata, metadata_of
from .samples import cmyk_to_srgb
from .stored import Stored

if TYPE_CHECKING:
    from tifffile import TiffPage

_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, in either byte order
_PILLOWS_BITS = (1, 2, 4, 8)
_SAVE = "save it as RGB or grey with 8 or 16 bits"


def is_tiff(data: bytes) -> bool:
    """By its first bytes."""
    return data[:4] in _HEADS


def read_tiff(data: bytes, name: str, *, always: bool = False) -> Stored | None:
    """The first page; None if it has 8 bits or fewer, which Pillow reads, unless `always`.

    Raises OSError for a damaged file, ImageError for a kind that has no picture to be restored.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            if not always and page.bitspersample in _PILLOWS_BITS:
                return None
            limit = Image.MAX_IMAGE_PIXELS
            if limit and page.imagewidth * page.imagelength > 2 * limit:  # as Pillow for all else
                raise Image.DecompressionBombError
            _check_kind(name, page)
            samples = _sixteen_bits(name, page, page.asarray())
            metadata = _metadata(data)
            return _stored(name, page, samples, len(file.pages), metadata)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception as error:  # tifffile passes on whatever its decoders raise
        pass_on(error)
        raise OSError(first_line(error)) from error


def _check_kind(name: str, page: TiffPage) -> None:
    from tifffile import PHOTOMETRIC

    if page.photometric not in _colours():
        called = getattr(PHOTOMETRIC(page.photometric), "name", page.photometric)
        raise ImageError(f"{name} is a TIFF of a rare kind ({called}, {page.bitspersample} bits); {_SAVE}.")
    if getattr(page.tags.get("InkSet"), "value", 1) != 1:
        raise ImageError(f"{name} is a TIFF of inks other than CMYK; {_SAVE}.")
    dtype = page.dtype
    if dtype is None or dtype.kind not in "uf":
        kinds = {"i": "signed numbers", "c": "complex numbers"}
        what = kinds.get(dtype.kind if dtype is not None else "", f"samples of {page.bitspersample} bits")
        raise ImageError(f"{name} is a TIFF of {what}; {_SAVE}.")


def _colours() -> dict[int, int]:
    """Kind of picture -> channels of colour."""
    from tifffile import PHOTOMETRIC

    return {
        int(PHOTOMETRIC.MINISBLACK): 1,
        int(PHOTOMETRIC.MINISWHITE): 1,
        int(PHOTOMETRIC.RGB): 3,
        int(PHOTOMETRIC.SEPARATED): 4,
    }


def _sixteen_bits(name: str, page: TiffPage, samples: np.ndarray) -> np.ndarray:
    """uint8 as they are, all else as uint16: black is 0, white 65535."""
    if samples.dtype.kind == "f":
        low, high = float(samples.min()), float(samples.max())
        if not (low >= 0 and high <= 1):  # also for NaN
            raise ImageError(
                f"{name} has {8 * samples.dtype.itemsize}-bit floats from {low:g} to {high:g}; scale them to 0 to 1, "
                "or save it with 16 bits."
            )
        return np.rint(samples.astype(np.float64) * 65535).astype(np.uint16)
    if page.bitspersample in (8, 16):
        return samples
    return np.rint(samples.astype(np.float64) * (65535 / (2**page.bitspersample - 1))).astype(np.uint16)


def _stored(name: str, page: TiffPage, samples: np.ndarray, frames: int, metadata: Metadata) -> Stored:
    from tifffile import PHOTOMETRIC, PLANARCONFIG

    colours = _colours()[page.photometric]
    if page.planarconfig == PLANARCONFIG.SEPARATE and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if samples.ndim == 2:
        samples = samples[..., None]
    if samples.ndim != 3 or samples.shape[-1] < colours:
        raise ImageError(f"{name} is a TIFF of a rare kind (samples of shape {samples.shape}); {_SAVE}.")
    orientation = getattr(page.tags.get(274), "value", 1)
    colour, opacity = _straight(page, samples, colours)
    bits, icc, notes = page.bitspersample, page.iccprofile, ()
    if page.photometric == PHOTOMETRIC.SEPARATED:
        colour, icc = cmyk_to_srgb(_eight_bits(colour), icc)
        opacity = None if opacity is None else _eight_bits(opacity)
    if samples.shape[-1] > colours + (opacity is not None):
        notes = (f"it has {samples.shape[-1]} channels, of which {colours} of colour are used",)
    if opacity is not None:
        colour = np.concatenate([colour, opacity], axis=-1)
    return Stored(colour, orientation, icc, frames, bits, metadata=metadata, notes=notes)


def _straight(page: TiffPage, samples: np.ndarray, colours: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, channels) -> colour, where 0 is black and alpha is not premultiplied, and alpha (H, W, 1) or None."""
    from tifffile import EXTRASAMPLE, PHOTOMETRIC

    extra, top = page.extrasamples, np.iinfo(samples.dtype).max
    colour = samples[..., :colours]
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        colour = top - colour
    alphas = [i for i, kind in enumerate(extra) if kind in (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)]
    if not alphas and samples.shape[-1] == colours + 1 and colours < 4:
        alphas = [0]  # some writers leave the tag out, or leave it unspecified
    if not alphas:
        return colour, None
    opacity = samples[..., colours + alphas[0], None]
    if extra and extra[alphas[0]] == EXTRASAMPLE.ASSOCALPHA:
        straight = colour.astype(np.float64) * top / np.maximum(opacity, 1)
        colour = np.rint(np.clip(straight, 0, top)).astype(samples.dtype)
    return colour, opacity


def _eight_bits(samples: np.ndarray) -> np.ndarray:
    return samples if samples.dtype == np.uint8 else np.rint(samples / 257).astype(np.uint8)


def _metadata(data: bytes) -> Metadata:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return metadata_of(image)
    except Exception:  # Pillow does not know this kind, or stumbles; the pixels are there all the same
        return Metadata()


def encode_tiff(samples: np.ndarray, icc: bytes | None, has_alpha: bool, **options: Any) -> bytes:  # noqa: ANN401
    """uint8 or uint16 (H, W[, 2|3|4]) -> the bytes of a losslessly compressed TIFF file, alpha marked as straight.

    options: further ones of `tifffile.imwrite`.
    """
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
        **options,
    )
    return buffer.getvalue()
