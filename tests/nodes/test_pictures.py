"""Load Pictures: a folder of the input folder as a list, or the pack's own photos."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused


@pytest.fixture
def folder(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    (tmp_path / "some").mkdir()
    return tmp_path / "some"


def test_every_picture_has_its_own_size_and_alpha(pack, folder, caplog):
    Image.new("RGBA", (5, 3), (255, 0, 0, 51)).save(folder / "b.png")
    Image.new("RGB", (4, 6), (0, 255, 0)).save(folder / "a.bmp")
    (folder / "c.psd").write_bytes(b"8BPS")
    (folder / "notes.txt").touch()
    node = pack.pictures.LoadPictures
    before = node.fingerprint_inputs("some")
    made = node.execute("some")
    (a, b), names = made.args
    assert names == ["a", "b"] and a.shape == (1, 6, 4, 3) and b.shape == (1, 3, 5, 4)
    assert torch.allclose(b[0, 0, 0], torch.tensor([1.0, 0.0, 0.0, 0.2])) and float(a[..., 1].min()) == 1
    assert "1 .psd" in made.ui["text"][0] and "1 .psd" in caplog.text
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(folder / "d.png")
    assert node.fingerprint_inputs("some") != before


def test_the_pack_s_own_photos(pack):
    images, names = pack.pictures.LoadPictures.execute(pack.pictures.EXAMPLES).args
    assert names == ["barn", "lighthouse", "parrots", "plane"] and len(images) == 4


@pytest.mark.parametrize(
    ("name", "words"), [("some", "holds no pictures"), ("gone", "cannot be read"), ("../..", "lies outside")]
)
def test_folders_that_do_not_go(pack, folder, name, words):
    with refused(pack.core.errors.ImageError, words):
        pack.pictures.LoadPictures.execute(name)
