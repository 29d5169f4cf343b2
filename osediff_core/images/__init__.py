"""Images as files and as arrays: reading, writing, and the `Picture` between them."""

from .files import READ_SUFFIXES, WRITE_FORMATS, check_format, read_image, write_image
from .picture import Picture

__all__ = ["READ_SUFFIXES", "WRITE_FORMATS", "Picture", "check_format", "read_image", "write_image"]
