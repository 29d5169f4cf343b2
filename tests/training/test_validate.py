import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from training.data.errors import DataError
from training.perceptual import perceptual_loss
from training.validate import Validation


def picture(width, height, seed=0):
    """Smooth colours with edges."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def mse(image, reference):
    return (image - reference).square().mean(dim=(1, 2, 3))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        picture(120 + 8 * index, 150, index).save(folder / f"p{index}.png")
    return folder


@pytest.fixture
def real(tmp_path):
    """Pairs of a x2 camera, b alone on one side."""
    for name in ("LR", "HR"):
        (tmp_path / "real" / name).mkdir(parents=True)
    hq = picture(130, 98)
    hq.save(tmp_path / "real/HR/a.png")
    hq.resize((65, 49), Image.Resampling.BOX).save(tmp_path / "real/LR/a.jpg", quality=95)
    picture(64, 64).save(tmp_path / "real/HR/b.png")
    return tmp_path / "real"


def test_perfect_and_idle_restorers(photos):
    validation = Validation.from_folder(photos, size=100, multiple=8, distance=mse, preset="light")
    hqs = {torch.from_numpy(p.lq.copy()).sum().item(): p.hq for p in validation.pairs}
    assert [pair.hq.shape for pair in validation.pairs] == [(96, 96, 3)] * 3

    def perfect(lq, prompts):
        assert lq.shape == (1, 3, 96, 96) and prompts == [""]
        levels = ((lq[0] + 1) * 127.5).round().permute(1, 2, 0)
        return torch.from_numpy(hqs[int(levels.sum())].copy()).permute(2, 0, 1)[None] / 127.5 - 1

    best = validation.run(perfect)
    assert best["ssim_y"] == pytest.approx(1, abs=1e-5) and best["distance"] == pytest.approx(0, abs=1e-9)
    assert best["psnr_y"] > 100 and best["distance_ratio"] == pytest.approx(0, abs=1e-6)
    idle = validation.run(lambda lq, prompts: lq)
    assert idle["distance_ratio"] == pytest.approx(1)
    for name in ("psnr_y", "ssim_y", "distance"):
        assert idle[name] == pytest.approx(idle[f"bicubic_{name}"])
        assert idle[f"bicubic_{name}"] == best[f"bicubic_{name}"]
    assert 15 < idle["psnr_y"] < 45 and 0.2 < idle["ssim_y"] < 1


def test_figures_agree_with_arithmetic():
    """A ramp and the same ramp 10 levels brighter: luma differs by 10 * 219/255 levels everywhere."""
    from training.data.fixed_pairs import ValidationPair

    hq = np.broadcast_to(np.arange(0, 192, 2, dtype=np.uint8)[None, :, None], (96, 96, 3)).copy()
    found = Validation([ValidationPair("ramp", hq + 10, hq)]).run(lambda lq, prompts: lq)
    assert found["psnr_y"] == pytest.approx(-20 * np.log10(10 * 219 / 255 / 255), abs=1e-3)
    assert 0.9 < found["ssim_y"] < 1
    assert set(found) == {"psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y"}


def test_same_pairs_every_time(photos):
    first, again, other = (
        Validation.from_folder(photos, size=64, preset="realesrgan", seed=seed) for seed in (1, 1, 2)
    )
    for one, two, three in zip(first.pairs, again.pairs, other.pairs, strict=True):
        assert np.array_equal(one.lq, two.lq) and np.array_equal(one.hq, three.hq)
        assert not np.array_equal(one.lq, three.lq)
    fewer = Validation.from_folder(photos, limit=2, size=64, seed=1)
    assert [p.name for p in fewer.pairs] == ["p0", "p1"]
    assert np.array_equal(fewer.pairs[1].lq, first.pairs[1].lq)


def test_real_pairs_are_enlarged_by_pillow(real):
    (pair,) = Validation.from_folder(real, size=512, multiple=8).pairs
    with Image.open(real / "LR/a.jpg") as lq, Image.open(real / "HR/a.png") as hq:
        enlarged = lq.resize((130, 98), Image.Resampling.BICUBIC)
        box = (1, 1, 129, 97)  # the centre of 128x96
        assert np.array_equal(pair.lq, np.asarray(enlarged.crop(box)))
        assert np.array_equal(pair.hq, np.asarray(hq.crop(box)))


def test_the_sheet(photos, tmp_path):
    validation = Validation.from_folder(photos, size=96, distance=mse)
    # a diverged model can be looked at, too
    validation.run(lambda lq, prompts: torch.full_like(lq, float("nan")))
    validation.run(lambda lq, prompts: -lq)
    path = tmp_path / "run" / "sheets" / "step.png"
    validation.sheet(path, side=64, rows=2)
    assert [p.name for p in path.parent.iterdir()] == ["step.png"]
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] > 3 * 64 and 2 * 64 < pixels.shape[0] < 4 * 64
    expected = 255 - validation.pairs[0].lq[16:80, 16:80].astype(int)
    rows, columns = (range(pixels.shape[axis] - 63) for axis in (0, 1))
    close = (
        np.abs(pixels[y : y + 64, x : x + 64].astype(int) - expected).max() <= 1
        for y in rows
        for x in columns
    )
    assert any(close)


def test_a_network_as_distance(photos):
    validation = Validation.from_folder(
        photos, limit=1, size=64, distance=perceptual_loss("efficientnet-lite0")
    )
    assert validation.run(lambda lq, prompts: lq)["distance"] > 0
    nothing = Validation.from_folder(photos, limit=1, size=64, distance=perceptual_loss("none"))
    found = nothing.run(lambda lq, prompts: lq)
    assert found["distance"] == 0 and "distance_ratio" not in found


def test_skips_what_cannot_be_used(photos, caplog):
    (photos / "a_broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    picture(40, 200).save(photos / "b_thin.png")
    validation = Validation.from_folder(photos, size=96)
    assert len(validation.pairs) == 3
    assert ["a_broken.png" in validation.skipped[0], "40x200" in validation.skipped[1]] == [True, True]
    assert len(caplog.records) == 2


def test_small_pictures_keep_what_they_have(tmp_path):
    picture(70, 500).save(tmp_path / "narrow.png")
    (pair,) = Validation.from_folder(tmp_path, size=512, multiple=8).pairs
    assert pair.hq.shape == (496, 64, 3)


def test_bad_folders(tmp_path, real):
    def failure(path):
        with refused(DataError) as caught:
            Validation.from_folder(path)
        return str(caught.value)

    assert "no folder" in failure(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "neither pictures" in failure(tmp_path / "empty")
    (tmp_path / "empty" / "x.png").write_bytes(b"no picture")
    assert "x.png" in failure(tmp_path / "empty")
    (real / "LR" / "a.jpg").rename(real / "LR" / "c.jpg")
    assert "name of one" in failure(real)
    picture(300, 100).save(real / "LR" / "b.png")
    assert "300x100" in failure(real)


def test_processes_share_the_pairs_and_see_the_same(photos):
    whole = Validation.from_folder(photos, size=64, distance=mse, preset="light")
    expected = whole.run(lambda lq, prompts: -lq)
    calls, parts = [], []

    def part(rank, world, gather):
        shared = Validation.from_folder(photos, size=64, distance=mse, preset="light")

        def restore(lq, prompts):
            calls.append(rank)
            return -lq

        return shared.run(restore, rank, world, gather)

    for rank in range(2):
        part(rank, 2, lambda seen: parts.extend(seen) or seen)
    assert (
        calls.count(0) == calls.count(1) == 2
    )  # of three pairs, so that a split base can be gathered by all
    assert part(0, 2, lambda seen: parts) == expected


def test_prompts_are_the_taggers_of_the_lq_and_metrics_are_those_of_evaluate(photos):
    from osediff_core.evaluate.metrics import METRICS, load_measure
    from training.data.captions import find_tagger

    tagger = find_tagger("appearance")
    d2 = load_measure(METRICS["d2"], torch.device("cpu"))
    validation = Validation.from_folder(photos, limit=1, size=64, prompt=tagger, measures={"d2": d2})
    asked = []

    def restore(lq, prompts):
        asked.extend(prompts)
        return lq

    found = validation.run(restore)
    (pair,) = validation.pairs
    image, truth = (
        torch.from_numpy(side.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for side in (pair.lq, pair.hq)
    )
    assert asked == tagger(image) and asked != [""]
    assert found["d2"] == found["bicubic_d2"] == pytest.approx(d2(image, truth))
