"""Formats of picture files: which suffixes are read, which are written, and which are pictures that are not read."""

from __future__ import annotations

from pathlib import Path

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
# What a user may mean by "my pictures", too: phones' and newer formats, cameras' raw files, editors' files, HDR,
# drawings, and rare ones. Folders are searched without them, which is then said.
OTHER_SUFFIXES = frozenset(
    ".heic .heif .hif .heics .avifs .jxl .jxr .wdp .hdp .bpg .flif .webp2 .qoi"
    " .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .rwl .pef .srw .3fr .fff .iiq .x3f .raw .rwz"
    " .mrw .dcr .kdc .erf .mef .mos"
    " .psd .psb .xcf .kra .afphoto .clip .pdn .ora .procreate"
    " .exr .hdr .pfm .rgbe .svg .svgz .ai .eps .wmf .emf"
    " .ico .cur .icns .pcx .sgi .rgb .rgba .bw .ras .xbm .xpm .dds .pict .pct .j2k .j2c .jpc .jpx .jpf .jpm .mpo .jps"
    " .pam .fits .fit .dpx .cin .miff .jng .mng .dcm .iff .mpf".split()
)
_MAGIC = (  # offset, first bytes, what it is: formats that are met under a suffix that is read
    (4, b"ftyphe", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypmsf1", "a HEIF picture"),
    (4, b"ftypcrx", "a camera's raw file"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"II\xbc", "a JPEG XR picture"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"%!PS", "a PostScript program"),
    (0, b"%PDF", "a PDF document"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<", "a web page or XML"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"RIFF", "an audio or video file"),
)


def called(name: str | Path, head: bytes = b"") -> str:
    """What a file that is no readable image is, by its first bytes, else by its suffix."""
    for offset, magic, what in _MAGIC:
        if head[offset:].startswith(magic):
            return f"{what} and not an image that can be read"
    suffix = Path(name).suffix.lower()
    if suffix in OTHER_SUFFIXES:
        return f"not an image that can be read (the format {suffix} is not)"
    return "not an image that can be read"
