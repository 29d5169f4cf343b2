import io
import os
import socket
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from osediff_core.errors import DiskFull, ImageError
from osediff_core.images.files import (
    READ_SUFFIXES,
    WRITE_FORMATS,
    Picture,
    check_format,
    read_image,
    write_image,
)

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RNG = np.random.default_rng(0)


def picture_of(channels, bits, icc=None, size=(7, 5)):
    samples = RNG.integers(0, 2**bits, (size[1], size[0], channels), dtype=np.uint16)
    values = samples.astype(np.float32) / (2**bits - 1)
    grey, alpha = channels < 3, channels in (2, 4)
    colour = np.broadcast_to(values[..., : 1 if grey else 3], (*values.shape[:2], 3))
    return Picture(np.ascontiguousarray(colour), values[..., -1] if alpha else None, bits, grey, icc)


@pytest.fixture
def photo():
    return Image.fromarray(RNG.integers(0, 256, (60, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_round_trip(tmp_path, channels, bits, suffix):
    picture = picture_of(channels, bits, SRGB if channels > 2 else None)
    write_image(tmp_path / f"a{suffix}", picture)
    again = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(again.samples(), picture.samples())
    assert (again.bits, again.single_channel, again.icc) == (bits, channels < 3, picture.icc)
    assert (again.alpha is None) == (picture.alpha is None) and again.notes == ()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_files_are_so_for_others_too(tmp_path, channels):
    picture = picture_of(channels, 16, SRGB if channels > 2 else None)
    write_image(tmp_path / "a.png", picture)
    write_image(tmp_path / "a.tif", picture)
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), picture.samples())
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), picture.samples())
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info.get("icc_profile") == picture.icc


def test_webp_is_lossless_and_jpeg_close(tmp_path):
    picture = picture_of(4, 8, SRGB)
    write_image(tmp_path / "a.webp", picture)
    again = read_image(tmp_path / "a.webp")
    assert np.array_equal(again.samples(), picture.samples()) and again.icc == SRGB
    smooth = Picture(np.full((16, 16, 3), [0.2, 0.5, 0.8], np.float32), icc=SRGB)
    write_image(tmp_path / "a.jpg", smooth)
    again = read_image(tmp_path / "a.jpg")
    assert np.abs(again.rgb - smooth.rgb).max() < 0.02 and again.icc == SRGB


@pytest.mark.parametrize("suffix", sorted(WRITE_FORMATS))
def test_every_writable_format_can_be_read(tmp_path, suffix):
    write_image(tmp_path / f"a{suffix}", picture_of(3, 8))
    assert read_image(tmp_path / f"a{suffix}").size == (7, 5) and suffix in READ_SUFFIXES


def test_values_are_rounded_and_clipped():
    picture = Picture(np.array([[[-1.0, 0.5, 2.0]]], np.float32))
    assert picture.samples().tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    ramp = Image.fromarray((np.arange(24, dtype=np.uint8).reshape(4, 6) * 10).repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x112] = orientation
    ramp.convert("RGB").save(tmp_path / f"a{suffix}", exif=exif)
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(tmp_path / f"a{suffix}").samples(), expected)
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "b.tif", np.asarray(ramp).astype(np.uint16) * 257, extratags=tags)
    upright = ImageOps.exif_transpose(_with_orientation(ramp, orientation))
    assert np.array_equal(read_image(tmp_path / "b.tif").samples() // 257, np.asarray(upright))


def _with_orientation(image, orientation):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = orientation
    image.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "RGBA", "LA", "PA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, photo, mode):
    suffix = {"CMYK": ".jpg", "YCbCr": ".jpg", "LAB": ".tif", "PA": ".png", "I;16": ".png"}.get(mode, ".png")
    try:
        image = photo.convert("I").convert("I;16") if mode == "I;16" else photo.convert(mode)
        image.save(tmp_path / f"a{suffix}")
    except (ValueError, OSError) as error:
        pytest.skip(f"this Pillow does not write {mode}: {error}")
    picture = read_image(tmp_path / f"a{suffix}")
    assert picture.size == photo.size and picture.rgb.dtype == np.float32
    assert picture.is_grey == (mode in ("1", "L", "LA", "I;16"))
    if mode == "I;16":
        assert np.array_equal(picture.samples(), np.asarray(image))
    elif mode == "LAB":  # through its colour space and back
        assert np.abs(picture.rgb - np.asarray(photo, np.float32) / 255).mean() < 0.02
    else:
        with Image.open(tmp_path / f"a{suffix}") as stored:
            expected = np.asarray(stored.convert("RGB"), np.float32) / 255
        assert np.abs(picture.rgb - expected).max() < 1e-6


def test_cmyk_colours_are_plausible(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert np.abs(read_image(tmp_path / "a.tif").rgb - [1, 0, 0]).max() < 0.15


def test_transparency_in_palette_and_colour_key(tmp_path, photo):
    photo.convert("1").save(tmp_path / "b.png", transparency=0)
    assert {0.0, 1.0} == set(np.unique(read_image(tmp_path / "b.png").alpha))
    photo.quantize(8).save(tmp_path / "p.png", transparency=3)
    photo.save(tmp_path / "k.png", transparency=photo.getpixel((0, 0)))
    assert {0.0, 1.0} == set(np.unique(read_image(tmp_path / "p.png").alpha))
    assert read_image(tmp_path / "k.png").alpha[0, 0] == 0


def test_sixteen_bit_pgm(tmp_path):
    samples = RNG.integers(0, 2**16, (4, 5), dtype=np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 5 4 65535\n" + samples.astype(">u2").tobytes())
    picture = read_image(tmp_path / "a.pgm")
    assert picture.bits == 16 and np.array_equal(picture.samples(), samples)


def test_colour_with_more_bits_than_pillow_keeps_is_said(tmp_path):
    samples = RNG.integers(0, 2**16, (8, 8, 3), dtype=np.uint16)
    header = b"P6 # a comment\n8 # 9\n8\n"
    (tmp_path / "deep.ppm").write_bytes(header + b"65535\n" + samples.astype(">u2").tobytes())
    (tmp_path / "flat.ppm").write_bytes(header + b"255\n" + samples.astype(np.uint8).tobytes())
    deep = read_image(tmp_path / "deep.ppm")
    assert np.array_equal(deep.samples(), np.rint(samples / 257).astype(np.uint8)) and deep.bits == 8
    assert deep.notes == ("its 16 bits per channel are read as 8; 16-bit PNG and TIFF keep all",)
    assert read_image(tmp_path / "flat.ppm").notes == ()


@pytest.mark.parametrize(("suffix", "bits"), [(".jp2", 16), (".avif", 10), (".avif", 12)])
def test_deep_colour_in_jpeg_2000_and_avif_is_said(tmp_path, suffix, bits):
    encode = imagecodecs.jpeg2k_encode if suffix == ".jp2" else imagecodecs.avif_encode
    samples = RNG.integers(0, 2**bits, (16, 16, 3), dtype=np.uint16)
    try:
        (tmp_path / f"deep{suffix}").write_bytes(encode(samples, bitspersample=bits))
        (tmp_path / f"flat{suffix}").write_bytes(encode(samples.astype(np.uint8)))
        notes = [read_image(tmp_path / f"{name}{suffix}").notes for name in ("deep", "flat")]
    except (ImportError, ImageError) as error:
        pytest.skip(f"not supported here: {error}")
    assert notes == [(f"its {bits} bits per channel are read as 8; 16-bit PNG and TIFF keep all",), ()]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_too_many_pixels_of_16_bits_are_refused(tmp_path, monkeypatch, suffix):
    write_image(tmp_path / f"a{suffix}", picture_of(3, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)  # of 35; twice the limit is where Pillow refuses
    with pytest.raises(ImageError, match="more pixels than is safe"):
        read_image(tmp_path / f"a{suffix}")


def test_a_picture_that_is_a_program_is_not_run(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(eps)
    with pytest.raises(ImageError, match="not an image"):
        read_image(tmp_path / "a.png")


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / ("字" * 83 + ".png")  # 253 bytes of at most 255
    write_image(path, picture_of(3, 8))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif", ".png"])
def test_of_an_animation_the_first_frame_is_used_and_said(tmp_path, photo, suffix):
    lossless = {"lossless": True} if suffix == ".webp" else {}
    first = photo.convert("P").convert("RGB")
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[photo.rotate(90)], **lossless)
    picture = read_image(tmp_path / f"a{suffix}")
    assert "2 frames" in picture.notes[0]
    assert np.array_equal(picture.samples()[..., :3], np.asarray(first))


@pytest.mark.parametrize(
    "options", [{"compression": "lzw"}, {"tile": (16, 16)}, {"planarconfig": "separate"}]
)
def test_kinds_of_16_bit_tiff(tmp_path, options):
    samples = RNG.integers(0, 2**16, (40, 50, 3), dtype=np.uint16)
    stored = np.moveaxis(samples, -1, 0) if "planarconfig" in options else samples
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    assert np.array_equal(read_image(tmp_path / "a.tif").samples(), samples)


def test_white_is_zero_and_premultiplied_tiff(tmp_path):
    grey = RNG.integers(0, 2**16, (4, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "w.tif", grey, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "w.tif").samples(), 65535 - grey)
    half = np.full((4, 5, 4), 10000, np.uint16)
    half[..., 3] = 20000
    tifffile.imwrite(tmp_path / "a.tif", half, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(read_image(tmp_path / "a.tif").rgb - 0.5).max() < 1e-4


def test_profile_that_does_not_fit_is_left_out_and_said(tmp_path, photo):
    cmyk = SRGB[:16] + b"CMYK" + SRGB[20:]
    photo.save(tmp_path / "a.png", icc_profile=cmyk)
    picture = read_image(tmp_path / "a.png")
    assert picture.icc is None and "ICC profile" in picture.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.png", None, "does not exist"),
        ("empty.png", b"", "empty"),
        ("text.png", b"hello", "not an image"),
        ("html.jpg", b"<!doctype html><html></html>", "not an image"),
        ("head.png", b"\x89PNG\r\n\x1a\n", "damaged|not an image"),
        ("head.tif", b"II*\0", "damaged|not an image"),
    ],
)
def test_bad_files_are_explained(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=said) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value) and str(caught.value).count("\n") == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_cut_files_are_explained(tmp_path, suffix, bits):
    if bits == 16 and suffix in (".jpg", ".webp"):
        pytest.skip("no such files")
    path = tmp_path / f"a{suffix}"
    write_image(path, picture_of(3, bits, size=(64, 64)))
    data = path.read_bytes()
    for kept in (len(data) // 3, len(data) * 9 // 10):
        path.write_bytes(data[:kept])
        with pytest.raises(ImageError):
            read_image(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_floats_and_of_32_bits_is_read_with_16(tmp_path, dtype, channels):
    values = np.linspace(0, 1, 4 * 5 * channels).reshape(4, 5, channels)
    stored = (
        values.astype(dtype) if np.issubdtype(dtype, np.floating) else (values * (2**32 - 1)).astype(dtype)
    )
    kind = {"photometric": "rgb" if channels > 2 else "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", stored[..., 0] if channels == 1 else stored, **kind)
    picture = read_image(tmp_path / "a.tif")
    found = picture.rgb if picture.alpha is None else np.dstack([picture.rgb, picture.alpha])
    assert np.abs(found - values).max() < (1e-3 if dtype == np.float16 else 1e-5)
    assert picture.bits == 16 and (picture.alpha is None) == (channels < 4)
    bits = 8 * np.dtype(dtype).itemsize
    assert picture.notes == ((f"its {bits} bits per channel are read as 16",) if bits > 16 else ())


@pytest.mark.parametrize("extra", [None, "unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_with_and_without_another_channel(tmp_path, dtype, extra):
    top = np.iinfo(dtype).max
    ink = np.zeros((4, 5, 4 + (extra is not None)), dtype)
    ink[..., 1:3] = top  # magenta and yellow: red
    if extra:
        ink[..., 4] = top
    options = {"extrasamples": [extra]} if extra else {}
    tifffile.imwrite(
        tmp_path / "a.tif", ink, photometric="separated", planarconfig="contig", metadata=None, **options
    )
    picture = read_image(tmp_path / "a.tif")
    assert np.abs(picture.rgb - [1, 0, 0]).max() < 0.15
    if extra in ("unassalpha", "assocalpha"):
        assert (picture.alpha == 1).all()
    elif extra and dtype == np.uint16:
        assert "5 channels" in "".join(picture.notes)
    assert ("16 bits" in "".join(picture.notes)) == (dtype == np.uint16)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_odd_depths_of_tiff_fill_the_range(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, 32).astype(np.uint16).reshape(4, 8)
    data = imagecodecs.packints_encode(values, bits)  # rows of whole bytes
    assert len(data) * 8 >= values.size * bits
    tifffile.imwrite(tmp_path / "a.tif", iter([bytes(data)]), shape=(4, 8), dtype=np.uint16, bitspersample=bits,
                     photometric="minisblack", compression=None, metadata=None, rowsperstrip=4)  # fmt: skip
    picture = read_image(tmp_path / "a.tif")
    assert np.abs(picture.rgb[..., 0] - values / (2**bits - 1)).max() < 1e-4


def test_kinds_that_are_not_supported_are_named(tmp_path):
    def tiff(array, **options):
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **options)
        return tmp_path / "a.tif"

    for array, options, said in (
        (np.full((4, 4), 300.0, np.float32), {}, "floats from 300 to 300; scale"),
        (np.full((4, 4), np.nan, np.float32), {}, "floats from nan"),
        (np.zeros((4, 4), np.int16), {}, "signed numbers"),
        (np.zeros((4, 4), np.complex64), {}, "complex numbers"),
        (np.zeros((4, 4, 3), np.uint16), {"photometric": "cielab"}, "rare kind .CIELAB"),
        (np.zeros((4, 4), np.uint16), {"photometric": "cfa"}, "rare kind .CFA"),
    ):
        with pytest.raises(ImageError, match=said):
            read_image(tiff(array, **options))
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)
    (tmp_path / "a.pfm").write_bytes(b"Pf\n2 1\n-1.0\n" + np.ones(2, "<f4").tobytes())
    with pytest.raises(ImageError, match="32 bits"):
        read_image(tmp_path / "a.pfm")


def test_a_format_that_is_not_read_is_named_also_under_another_suffix(tmp_path):
    for name, head, said in (
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC picture"),
        ("a.jpg", b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC picture"),
        ("a.png", b"\xff\x0a" + bytes(40), "a JPEG XL picture"),
        ("a.cr3", b"nothing known", r"the format .cr3 is not"),
    ):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(ImageError, match=said):
            read_image(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="no such files")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_refused_at_once_and_never_replaced(tmp_path, monkeypatch, kind):
    path, bound = tmp_path / "a.png", socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # a socket's path may have 100 characters
        bound.bind("a.png")
    else:
        path.symlink_to("/dev/null")
    with bound:
        with pytest.raises(ImageError, match=f"is a {kind}, not a file"):
            read_image(path)
        with pytest.raises(ImageError, match=f"there is a {kind}"):
            write_image(path, picture_of(3, 8))
    assert not path.is_file()


def with_profile_of(size):
    profile = bytearray(SRGB + bytes(size - len(SRGB)))
    profile[:4] = struct.pack(">I", size)
    return bytes(profile)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_profiles_above_1_mb_are_kept(tmp_path, suffix, bits):
    picture = picture_of(3, bits, with_profile_of(1_500_000))
    write_image(tmp_path / f"a{suffix}", picture)
    assert read_image(tmp_path / f"a{suffix}").icc == picture.icc


def test_a_profile_that_inflates_without_end_is_left_out(tmp_path, photo):
    photo.save(tmp_path / "a.png", icc_profile=with_profile_of(40_000_000))
    picture = read_image(tmp_path / "a.png")
    assert picture.icc is None and "more than 16 MB" in picture.notes[0] and picture.size == photo.size


@pytest.mark.parametrize("packed", [False, True])
def test_long_texts_in_a_png_cost_nothing(tmp_path, photo, packed):
    """Pillow refuses a file with a packed text of more than 1 MB."""
    texts, exif = PngImagePlugin.PngInfo(), Image.Exif()
    exif[0x112] = 6
    texts.add_text("workflow", "x" * 2_000_000, zip=packed)
    texts.add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=packed)
    photo.save(tmp_path / "a.png", pnginfo=texts, exif=exif)
    assert read_image(tmp_path / "a.png").size == photo.size[::-1]


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ImageError, match="transparency"):
        write_image(tmp_path / "a.jpg", picture_of(4, 8))
    with pytest.raises(ImageError, match="suffix"):
        write_image(tmp_path / "a.xyz", picture_of(3, 8))
    with pytest.raises(ImageError, match="16383"):
        check_format(tmp_path / "a.webp", (20000, 10))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", picture_of(3, 8))
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="No space left"):
        write_image(tmp_path / "a.png", picture_of(3, 8))
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
