"""Pictures in folders, and rows of pictures on a sheet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osediff_core.images import Cell, centre_crop, contact_sheet, find_pictures


def test_pictures_are_found_by_name_folder_by_folder(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "._a.jpg", "c/e.webp", "c/d.tif", "z.png/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(*args):
        return [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path, *args)]

    assert found() == ["a.JPG", "b.png"]
    assert found(lambda folder: True) == ["a.JPG", "b.png", "c/d.tif", "c/e.webp", "z.png/a.png"]
    assert found(lambda folder: folder.name == "c") == ["a.JPG", "b.png", "c/d.tif", "c/e.webp"]


def test_a_folder_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(find_pictures(tmp_path / "nowhere"))
    told = []
    assert list(find_pictures(Path(tmp_path / "nowhere"), unreadable=told.append)) == [] and len(told) == 1


def test_a_sheet_shows_its_pictures_at_1_to_1(tmp_path):
    large, small = (
        Image.new("RGB", size, colour) for size, colour in (((90, 40), "red"), ((20, 30), "blue"))
    )
    rows = [[Cell(large, "words " * 20), Cell(small)], [Cell(small, "one")]]
    sheet = np.asarray(contact_sheet(rows, ("first", "second")))
    assert sheet.shape[1] == 2 * (90 + 6) + 6
    assert ((sheet == (255, 0, 0)).all(-1)).sum() == 90 * 40 and (
        (sheet == (0, 0, 255)).all(-1)
    ).sum() == 2 * 600
    assert len(contact_sheet(rows).tobytes()) < sheet.nbytes  # without titles
    cut = contact_sheet(rows, ("first", "second"), lines=1)
    assert cut.height < sheet.shape[0] and cut.width == sheet.shape[1]


def test_the_middle_of_a_picture():
    picture = Image.fromarray(np.arange(5 * 8, dtype=np.uint8).reshape(5, 8))
    assert np.array_equal(np.asarray(centre_crop(picture, 4)), np.asarray(picture)[0:4, 2:6])
    assert centre_crop(picture, 6).size == (6, 5)
