"""Images as files and as arrays: finding, reading, writing, laying them out, and the `Picture` between."""

from .files import decode_image, is_picture, open_image, read_file, read_image
from .find import find_pictures, left_out_words
from .formats import READ_SUFFIXES, WRITE_FORMATS
from .picture import Picture
from .sheet import Cell, centre_crop, contact_sheet
from .write import check_format, encode_image, write_file, write_image

__all__ = [
    "READ_SUFFIXES",
    "WRITE_FORMATS",
    "Cell",
    "Picture",
    "centre_crop",
    "check_format",
    "contact_sheet",
    "decode_image",
    "encode_image",
    "find_pictures",
    "is_picture",
    "left_out_words",
    "open_image",
    "read_file",
    "read_image",
    "write_file",
    "write_image",
]
