"""Where pictures come from: folders, lists, shards; and what files may hold."""

import numpy as np
import pytest
from data_pictures import encoded, fill, loader, picture, stems, take, write_tar
from PIL import Image
from refusals import refused

from training.data import DataError, SourceConfig
from training.data.pictures import BrokenPicture, decode
from training.data.sources import open_source


def names(source):
    return [source.name(index).rsplit("/", 1)[-1] for index in range(len(source))]


def test_a_folder_with_all_below_it_in_order_of_names_up_to_the_limit(tmp_path):
    fill(tmp_path / "b", 2), fill(tmp_path / "a", 2, first=5)
    (tmp_path / "a" / "._005.png").write_bytes(b"macOS"), (tmp_path / "notes.md").touch()
    assert names(open_source(SourceConfig(str(tmp_path)))) == ["005.png", "006.png", "000.png", "001.png"]
    assert names(open_source(SourceConfig(str(tmp_path), limit=3))) == ["005.png", "006.png", "000.png"]
    assert names(open_source(SourceConfig(str(tmp_path), exclude=("a/*",)))) == ["000.png", "001.png"]


def test_a_list_has_paths_beside_it_and_elsewhere(tmp_path):
    fill(tmp_path / "pictures", 2), fill(tmp_path / "else where", 1, first=7)
    lines = [
        "pictures/001.png",
        "",
        f"{tmp_path}/else where/007.png",
        "pictures/000.png ",
        "pictures/lost.png",
    ]
    (tmp_path / "train.txt").write_text("\r\n".join(lines), encoding="utf-8-sig")
    pairs = loader(tmp_path / "train.txt", batch=3)
    assert names(pairs.sources[0]) == ["001.png", "007.png", "000.png"]
    assert pairs.report.skipped == {str(tmp_path / "pictures/lost.png"): "it does not exist"}
    assert sorted(stems(take(pairs, 1))) == ["000", "001", "007"]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: p / "nowhere", "no folder"),
        (lambda p: p / "nowhere.txt", "cannot be read"),
        (lambda p: (p / "list.txt").write_text("\n\n") and p / "list.txt", "no picture in"),
        (lambda p: (p / "list.txt").write_text("a.png\nb.png") and p / "list.txt", "all 2 in it are missing"),
        (lambda p: (p / "list.txt").write_bytes(b"\xff\xfe\x00\x81") and p / "list.txt", "is no text"),
        (lambda p: p, "no picture in"),
        (lambda p: p / "*.tar", "No .tar file"),
        (lambda p: p / "{000..002}.tar", "No .tar file"),
        (lambda p: (p / "a.tar").write_bytes(b"no tar" * 200) and p / "a.tar", "no picture in"),
        (lambda p: SourceConfig(str(p), kind="video"), "kind 'video'"),
        (lambda p: SourceConfig(str(p), kind="folder", streaming=True), "cannot be streamed"),
    ],
)
def test_sources_that_cannot_be_used_are_said_in_one_sentence(tmp_path, make, words):
    with refused(DataError, words):
        loader(make(tmp_path))


@pytest.fixture
def shards(tmp_path):
    for shard in range(3):
        members = {}
        for number in range(4 * shard, 4 * shard + 4):
            members[f"{number:03d}.png"] = encoded(number)
            members[f"{number:03d}.txt"] = f"number {number}".encode()
            members[f"{number:03d}.json"] = b"{}"
        write_tar(tmp_path / f"{shard:03d}.tar", members)
    return tmp_path


@pytest.mark.parametrize("kind", ["auto", "shards"])
@pytest.mark.parametrize("pattern", ["*.tar", "{000..002}.tar", "{000,001,002}.tar", ""])
def test_shards_are_read_in_any_order(shards, pattern, kind):
    source = open_source(SourceConfig(f"{shards}/{pattern}" if pattern else str(shards), kind=kind))
    assert len(source) == 12 and source.name(5) == f"{shards}/001.tar/005"
    for index in (11, 0, 5):
        assert np.array_equal(np.asarray(decode(source.read(index))), np.asarray(picture(index)))
        assert source.caption(index) == f"number {index}"


def test_shards_give_the_batches_of_the_same_pictures_in_a_folder(shards, tmp_path):
    folder = fill(tmp_path / "folder", 12)
    packed = take(loader(shards / "*.tar", batch=5, captions="files", workers=2), 3)
    for one, other in zip(packed, take(loader(folder, batch=5), 3), strict=True):
        assert one.hq.equal(other.hq) and one.lq.equal(other.lq)
        assert one.prompts == [f"number {int(stem)}" for stem in stems([other])]
    assert len(open_source(SourceConfig(f"{shards}/*.tar", limit=7))) == 7


def test_a_folder_of_pictures_may_hold_a_tar_too(shards):
    fill(shards / "below", 2)
    assert len(open_source(SourceConfig(str(shards)))) == 2


def test_a_shard_that_ends_too_soon_is_used_as_far_as_it_goes(shards):
    data = (shards / "001.tar").read_bytes()
    (shards / "001.tar").write_bytes(data[: len(data) // 2])
    pairs = loader(shards / "*.tar", batch=12)
    assert 8 < len(pairs.sources[0]) < 12
    assert {"000", "011"} <= set(stems(take(pairs, 2)))
    assert any(name.endswith("001.tar") for name in pairs.report.skipped)


def saved(tmp_path, image, name="one.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return decode(path.read_bytes())


def test_grey_palette_alpha_and_cmyk_become_rgb(tmp_path):
    grey = saved(tmp_path, Image.new("L", (5, 4), 100))
    assert grey.mode == "RGB" and grey.getpixel((0, 0)) == (100, 100, 100)
    assert saved(tmp_path, Image.new("1", (5, 4), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert saved(tmp_path, Image.new("RGB", (5, 4), (9, 8, 7)).quantize(4)).getpixel((0, 0)) == (9, 8, 7)
    assert saved(tmp_path, Image.new("RGBA", (5, 4), (200, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    half = saved(tmp_path, Image.new("LA", (5, 4), (0, 51))).getpixel((0, 0))
    assert half == (204, 204, 204)  # 255 * (1 - 51/255)
    cmyk = saved(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "one.jpg", quality=100).getpixel((0, 0))
    assert cmyk[0] < 10 and min(cmyk[1:]) > 245
    assert saved(tmp_path, Image.new("LAB", (5, 4), (128, 0, 0)), "one.tif").mode == "RGB"


@pytest.mark.parametrize("name", ["one.png", "one.tif", "one.pgm"])
def test_sixteen_bits_are_rounded_to_eight(tmp_path, name):
    levels = np.array([[0, 257, 25700, 65535], [128, 129, 25828, 25829]], np.uint16)
    found = np.asarray(saved(tmp_path, Image.fromarray(levels), name))[..., 0]
    assert found.tolist() == [[0, 1, 100, 255], [0, 1, 100, 101]]


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    upright = saved(tmp_path, image, exif=exif)
    assert upright.size == (4, 6) and upright.getpixel((3, 0)) == (255, 255, 255)


def test_what_is_no_picture_of_ours_is_broken_and_not_run(tmp_path, monkeypatch):
    with pytest.raises(BrokenPicture, match="32 bits"):
        saved(tmp_path, Image.new("F", (5, 4)), "one.tif")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(BrokenPicture, match="no picture"):
        decode(eps)
    data = encoded(1, (200, 200))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(BrokenPicture, match="more pixels than is safe"):
        decode(data)


def test_any_damage_is_a_broken_picture_or_a_picture():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        whole = bytearray(encoded(3, kind=kind))
        for _ in range(30):
            data = whole.copy()
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(256)
            try:
                assert decode(bytes(data[: rng.integers(1, len(data))])).mode == "RGB"
            except BrokenPicture as error:
                assert "\n" not in str(error)
