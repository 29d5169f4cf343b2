"""EXIF and resolution of a picture: what is kept of them where that is asked for, and how they are written again."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD, Base, Interop

from .colour_space import ColourSpace, adobe_rgb

# Of the first directory: of a TIFF it also holds how the file is laid out, which is another file's business.
_KEPT = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Copyright,
    Base.XPTitle,
    Base.XPComment,
    Base.XPAuthor,
    Base.XPKeywords,
    Base.XPSubject,
)
# The pointer to another directory, and what a profile or the samples say
_ABOUT_THE_FILE = (Base.ColorSpace, IFD.Interop, Base.ComponentsConfiguration, Base.CompressedBitsPerPixel)
_TEXTS = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.Copyright,
)
_LARGEST_EXIF = 65_000  # bytes; a JPEG's segment ends at 65,533
_PNG_METRE = 39.3701  # inches


@dataclass(frozen=True)
class Metadata:
    """base, details, place: EXIF's first directory, that of the exposure, that of GPS, by tag.

    interoperability: EXIF's word for the kind of colours. dpi: (horizontal, vertical) pixels per inch, or None.
    """

    base: dict[int, Any] = field(default_factory=dict)
    details: dict[int, Any] = field(default_factory=dict)
    place: dict[int, Any] = field(default_factory=dict)
    interoperability: str = ""
    dpi: tuple[float, float] | None = None


def metadata_of(image: Image.Image) -> Metadata:
    """What an opened image has of it. A TIFF must not be loaded yet, which lets its directories go."""
    exif = image.getexif()
    base: dict[int, Any] = {tag: exif[tag] for tag in _KEPT if tag in exif}
    details, place = (dict(exif.get_ifd(directory)) for directory in (IFD.Exif, IFD.GPSInfo))
    interoperability = str(exif.get_ifd(IFD.Interop).get(Interop.InteropIndex, "")).strip("\0 ")
    unit = {2: 1.0, 3: 2.54}.get(exif.get(Base.ResolutionUnit, 2), 0.0)  # 1 is none: a ratio of the sides
    dpi = _resolution(image.info.get("dpi"), 1.0) if unit else None
    dpi = dpi or _resolution((exif.get(Base.XResolution), exif.get(Base.YResolution)), unit)
    return Metadata(base, details, place, interoperability, dpi)


def _resolution(values: Any, unit: float) -> tuple[float, float] | None:  # noqa: ANN401 - whatever a file holds
    try:
        across, down = (unit * float(value) for value in values)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def colours_of(metadata: Metadata) -> ColourSpace | None:
    """Adobe RGB, as cameras declare it: by ColorSpace 2, or by none of them and interoperability R03."""
    declared = metadata.details.get(Base.ColorSpace)
    if declared == 2 or (declared != 1 and metadata.interoperability == "R03"):
        return adobe_rgb("EXIF")
    return None


def exif_bytes(metadata: Metadata, size: tuple[int, int]) -> bytes | None:
    """EXIF for a result of `size`, upright and in the colours of its own profile; None if there is nothing to say.

    Camera makers' private notes are left out where they do not fit a JPEG, and all where that is not enough.
    """
    details = {tag: value for tag, value in metadata.details.items() if tag not in _ABOUT_THE_FILE}
    if not (metadata.base or details or metadata.place):
        return None
    for left_out in (0, Base.MakerNote):
        details.pop(left_out, None)
        made = Image.Exif()
        made[Base.Orientation] = 1
        for tag, value in metadata.base.items():
            made[tag] = value
        if metadata.dpi:
            made[Base.XResolution], made[Base.YResolution] = metadata.dpi
            made[Base.ResolutionUnit] = 2
        made.get_ifd(IFD.Exif).update(details | {Base.ExifImageWidth: size[0], Base.ExifImageHeight: size[1]})
        if metadata.place:
            made.get_ifd(IFD.GPSInfo).update(metadata.place)
        data = made.tobytes()
        if len(data) <= _LARGEST_EXIF:
            return data
    return None


def png_resolution(dpi: tuple[float, float]) -> bytes:
    """The body of a PNG's pHYs: pixels per metre."""
    across, down = (round(value * _PNG_METRE) for value in dpi)
    return across.to_bytes(4, "big") + down.to_bytes(4, "big") + b"\1"


def tiff_options(metadata: Metadata) -> dict[str, Any]:
    """The texts and the resolution, as `tifffile.imwrite` takes them; it writes no directory of EXIF."""
    texts = [(int(tag), str(metadata.base[tag]).strip("\0")) for tag in _TEXTS if tag in metadata.base]
    options: dict[str, Any] = {
        "extratags": [(tag, "s", 0, text, True) for tag, text in texts if text.isascii()]
    }
    options["software"] = False
    if metadata.dpi:
        resolution = [Fraction(value).limit_denominator(10_000) for value in metadata.dpi]
        options["resolution"] = tuple((part.numerator, part.denominator) for part in resolution)
        options["resolutionunit"] = "INCH"
    return options
