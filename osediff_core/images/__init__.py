"""Images as files and as arrays: finding, reading, writing, laying them out, and the `Picture` between."""

from .files import READ_SUFFIXES, WRITE_FORMATS, check_format, open_image, read_image, write_image
from .find import find_pictures
from .picture import Picture
from .sheet import Cell, centre_crop, contact_sheet

__all__ = [
    "READ_SUFFIXES",
    "WRITE_FORMATS",
    "Cell",
    "Picture",
    "centre_crop",
    "check_format",
    "contact_sheet",
    "find_pictures",
    "open_image",
    "read_image",
    "write_image",
]
