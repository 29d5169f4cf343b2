"""Colours that files declare without an ICC profile: kept as one, or converted to sRGB, and said."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from osediff_core.images import read_image, write_image

y, x = np.mgrid[0:12, 0:16]
RGB = np.stack([x * 16, y * 20, (x + y) * 8], -1).astype(np.uint8)
ADOBE = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)  # white, red, green, blue, times 100,000
REC709 = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, array, *extra):
    """A PNG of uint8 or uint16 samples with chunks of (kind, body)."""
    depth, colour = 8 * array.dtype.itemsize, {2: 0, 3: 2}[array.ndim]
    raw = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(*one) for one in extra), chunk(b"IDAT", zlib.compress(raw))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def cicp(*numbers):
    return b"cICP", bytes([*numbers, 0, 1])


def gama(value):
    return b"gAMA", struct.pack(">I", value)


def chrm(values):
    return b"cHRM", struct.pack(">8I", *values)


def to_srgb(picture):
    """8-bit sRGB by LittleCMS, of a picture with a profile."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(picture.icc))
    image = Image.fromarray(picture.rgb8())
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))).astype(int)


@pytest.mark.parametrize(
    "extra",
    [
        [],
        [(b"sRGB", b"\0")],
        [(b"sRGB", b"\0"), gama(100000), chrm(ADOBE)],
        [gama(45455)],
        [gama(45455), chrm(REC709)],
        [chrm(REC709)],
        [cicp(1, 13)],
        [cicp(1, 1)],
        [cicp(2, 2)],
    ],
)
def test_what_declares_srgb_gets_no_note(tmp_path, extra):
    for array in (RGB, RGB.astype(np.uint16) * 257, RGB[..., 0]):
        picture = read_image(png(tmp_path / "a.png", array, *extra))
        assert (picture.icc, picture.notes) == (None, ())
        assert np.array_equal(picture.samples(), array)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ([cicp(12, 13)], "Display P3 (by cICP)"),
        ([cicp(9, 1)], "BT.2020 (by cICP)"),
        ([cicp(9, 14)], "BT.2020 (by cICP)"),
        ([gama(45472), chrm(ADOBE)], "Adobe RGB, gamma 2.2 (by gAMA and cHRM)"),
        ([chrm(ADOBE)], "Adobe RGB (by cHRM)"),
        ([gama(55555)], "BT.709, gamma 1.8 (by gAMA)"),
        ([cicp(11, 17)], "DCI-P3 gamma 2.6 (by cICP)"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_ordinary_spaces_are_kept_as_a_profile(tmp_path, extra, name, deep):
    array = RGB.astype(np.uint16) * 257 if deep else RGB
    picture = read_image(png(tmp_path / "a.png", array, *extra))
    assert picture.notes == (f"its colours are {name}, kept as an ICC profile",)
    assert np.array_equal(picture.samples(), array)  # no value is touched
    for suffix in (".png", ".tif", ".webp", ".jpg"):  # the profile is one that others take, in every format
        write_image(tmp_path / f"b{suffix}", picture)
        again = read_image(tmp_path / f"b{suffix}")
        assert again.icc == picture.icc and again.notes == ()
    assert np.abs(to_srgb(picture) - RGB).max() > 3


def test_the_kept_profile_means_the_declared_colours(tmp_path):
    """Against the profile of Adobe RGB and of Display P3 that LittleCMS makes of published numbers."""
    adobe = imagecodecs.cms_profile("adobergb")
    declared = read_image(png(tmp_path / "a.png", RGB, gama(45472), chrm(ADOBE)))
    Image.fromarray(RGB).save(tmp_path / "b.png", icc_profile=adobe)
    assert np.abs(to_srgb(declared) - to_srgb(read_image(tmp_path / "b.png"))).max() <= 1
    # the red of Display P3 lies outside of sRGB, its white and greys are sRGB's
    grey = np.full((2, 2, 3), 90, np.uint8)
    assert np.abs(to_srgb(read_image(png(tmp_path / "g.png", grey, cicp(12, 13)))) - 90).max() <= 1


@pytest.mark.parametrize("deep", [False, True])
def test_linear_light_is_converted(tmp_path, deep):
    linear = np.full((4, 4, 3), 0.2140411, np.float64)  # half of sRGB's range
    levels = 65535 if deep else 255
    array = np.rint(linear * levels).astype(np.uint16 if deep else np.uint8)
    for extra in (
        [gama(100000)],
        [cicp(1, 8)],
        [cicp(12, 8)],
    ):  # grey has the same values under any primaries
        picture = read_image(png(tmp_path / "a.png", array, *extra))
        assert picture.icc is None and "linear light" in picture.notes[0] and "converted" in picture.notes[0]
        assert np.abs(picture.rgb - 0.5).max() < (1e-4 if deep else 4e-3)
        assert picture.is_grey and picture.bits == (16 if deep else 8)


def pq(nits):
    """SMPTE ST 2084, the inverse of its EOTF."""
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def test_pq_is_converted_with_white_at_203_nits(tmp_path):
    for nits, expected in ((0, 0.0), (203 * 0.2140411, 0.5), (203, 0.95), (10_000, 1.0)):
        array = np.full((4, 4, 3), round(pq(nits) * 65535), np.uint16)
        picture = read_image(png(tmp_path / "a.png", array, cicp(9, 16)))
        tolerance = 0.05 if nits >= 203 else 1e-3  # highlights are compressed, the rest is exact
        assert np.abs(picture.rgb - expected).max() <= tolerance and picture.is_grey
        assert "BT.2020 PQ (by cICP) and converted to sRGB" in picture.notes[0]
    # a saturated red of BT.709, given in BT.2020
    red = np.array([0.6274, 0.0691, 0.0164]) * 100
    array = np.broadcast_to(np.rint(pq(red) * 65535), (4, 4, 3)).astype(np.uint16)
    found = read_image(png(tmp_path / "a.png", array, cicp(9, 16))).rgb[0, 0]
    assert found[0] > 0.6 and found[1:].max() < 0.05


def test_hlg_and_grey(tmp_path):
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8)[None, :, None], (4, 1, 3))
    picture = read_image(png(tmp_path / "a.png", ramp, cicp(9, 18)))
    assert "HLG" in picture.notes[0] and (np.diff(picture.rgb[0, :, 0]) >= 0).all() and picture.is_grey
    grey = read_image(png(tmp_path / "g.png", ramp[..., 0], gama(100000)))
    assert grey.single_channel and "linear" in grey.notes[0] and grey.rgb[0, 1, 0] > 0.25
    assert (
        read_image(png(tmp_path / "p.png", ramp[..., 0], cicp(12, 13))).notes == ()
    )  # grey has no primaries


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ([cicp(99, 13)], "cICP 99/13"),
        ([cicp(1, 200)], "cICP 1/200"),
        ([gama(0)], "gAMA is impossible"),
        ([gama(1)], "gAMA is impossible"),
        ([chrm((0,) * 8)], "cHRM is impossible"),
        ([chrm((31270, 32900, 64000, 33000, 64000, 33000, 64000, 33000))], "cHRM is impossible"),
        ([(b"iCCP", b"x\0\0no zlib")], "profile is damaged"),
    ],
)
def test_what_cannot_be_meant_is_left_out_and_said(tmp_path, extra, said):
    picture = read_image(png(tmp_path / "a.png", RGB, *extra))
    assert picture.icc is None and said in picture.notes[0] and np.array_equal(picture.samples(), RGB)


def test_a_profile_comes_before_older_chunks_and_behind_cicp(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    embedded = (b"iCCP", b"x\0\0" + zlib.compress(icc))
    assert read_image(png(tmp_path / "a.png", RGB, embedded, gama(100000))).icc == icc
    assert read_image(png(tmp_path / "a.png", RGB, cicp(1, 13), embedded)).icc == icc
    assert "PQ" in read_image(png(tmp_path / "a.png", RGB, cicp(9, 16), embedded)).notes[0]


@pytest.mark.parametrize(
    ("primaries", "transfer", "said"),
    [
        (12, 13, "Display P3 (by nclx), kept"),
        (9, 16, "BT.2020 PQ (by nclx) and converted"),
        (9, 18, "BT.2020 HLG (by nclx) and converted"),
        (1, 8, "linear light (by nclx) and converted"),
        (1, 13, None),
        (1, 1, None),
        (2, 2, None),
    ],
)
def test_avif(tmp_path, primaries, transfer, said):
    try:
        data = imagecodecs.avif_encode(RGB, level=95, primaries=primaries, transfer=transfer, matrix=6)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"no AVIF here: {error}")
    (tmp_path / "a.avif").write_bytes(data)
    notes = read_image(tmp_path / "a.avif").notes
    assert notes == () if said is None else said in notes[0]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".png"])
def test_adobe_rgb_by_exif(tmp_path, suffix):
    for colours, index, adobe in ((2, "", True), (65535, "R03", True), (1, "R98", False), (65535, "", False)):
        if index and suffix == ".tif":
            continue  # Pillow does not find this directory there
        exif = Image.Exif()
        exif[0x10F] = "Maker"
        exif.get_ifd(0x8769)[0xA001] = colours
        if index:
            exif.get_ifd(0x8769)[0xA005] = {1: index}
        Image.fromarray(RGB).save(tmp_path / f"a{suffix}", exif=exif.tobytes())
        picture = read_image(tmp_path / f"a{suffix}")
        expected = ("its colours are Adobe RGB (by EXIF), kept as an ICC profile",) if adobe else ()
        assert picture.notes == expected, (colours, index)
        assert (picture.icc is not None) == adobe
