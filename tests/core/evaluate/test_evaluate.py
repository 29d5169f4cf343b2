"""`osediff_core.evaluate`: figures that are known beforehand, and pictures that do not fit."""

import csv
import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchmetrics", reason="the eval extra is not installed")

from osediff_core.errors import ImageError, OptionError
from osediff_core.evaluate import evaluate, pair_up, parse_metrics
from osediff_core.evaluate import psnr_ssim as fidelity
from osediff_core.evaluate.bootstrap import bootstrap_interval, mean_of
from osediff_core.evaluate.measure import load_measures, scores_of
from osediff_core.evaluate.metrics import METRICS, MetricUnavailable, load_measure


def pixels(width=48, height=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def flat(level, side=20):
    return torch.full((1, 3, side, side), level / 127.5 - 1)


@pytest.fixture
def folders(tmp_path):
    """a: as it should be; b: noise of its own."""
    for seed, name in enumerate("ab"):
        save(tmp_path / "HR" / f"{name}.png", pixels(seed=seed))
        save(tmp_path / "out" / f"{name}.png", pixels(seed=0 if name == "a" else 9))
        lq = Image.fromarray(pixels(seed=seed)).resize((12, 10), Image.Resampling.BICUBIC)
        save(tmp_path / "LR" / f"{name}.jpg", np.asarray(lq), quality=95)
    return tmp_path


@pytest.mark.slow
def test_published_figures(reference_dir):
    """Those of the paper's authors for their own results."""
    folder = reference_dir / "data" / "realsr_dev"
    if not folder.is_dir():
        pytest.skip("the real pairs are not here")
    with (folder / "published_metrics.csv").open() as file:
        published = {row["name"]: row for row in csv.DictReader(file)}
    pairs = pair_up(folder / "results_osediff", folder / "HR").pairs
    assert {pair.name for pair in pairs} == set(published)
    try:
        load_measure(METRICS["niqe"], torch.device("cpu"))
        names = "psnr ssim niqe"
    except MetricUnavailable:
        names = "psnr ssim"
    tolerances = {"psnr": 1e-4, "ssim": 5e-6, "niqe": 1e-2}
    found = evaluate(pairs[::2], parse_metrics(names))
    assert len(found.cases) == 10 and not found.failed and not found.skipped
    for case in found.cases:
        for name in names.split():
            expected = float(published[case.name][name.upper()])
            assert case.result[name] == pytest.approx(expected, abs=tolerances[name]), (case.name, name)


def test_ssim_of_flat_pictures_is_its_luminance_term():
    """(2 a b + C1) / (a² + b² + C1) with whole levels of luma."""
    a, b = (round(16 + 219 * level / 255) for level in (40, 200))
    c1 = (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert float(fidelity.ssim_y(flat(40), flat(200))) == pytest.approx(expected, abs=1e-6)


def test_ssim_counts_opposed_structures_as_nothing_and_ignores_the_border(monkeypatch):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 33, 29) * 2 - 1
    assert float(fidelity.ssim_y(image, -image)) == 0
    assert float(fidelity.ssim_y(image, image)) == pytest.approx(1)
    other = (image + 0.3 * torch.randn_like(image)).clamp(-1, 1)
    whole = float(fidelity.ssim_y(image, other))
    monkeypatch.setattr(fidelity, "_TILE", 10)
    assert float(fidelity.ssim_y(image, other)) == pytest.approx(whole, abs=1e-7)
    # 11 x 11 px are one window, whose corners weigh next to nothing
    crop, changed = image[..., :11, :11], image[..., :11, :11].clone()
    changed[..., 0, 0] *= -1
    assert float(fidelity.ssim_y(crop, changed)) == pytest.approx(1, abs=1e-3)


def test_bootstrap_interval_is_that_of_a_mean():
    torch.manual_seed(0)
    values = torch.randn(400, dtype=torch.float64) + 5
    low, high = bootstrap_interval(values)
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.1 * half)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.1 * half)
    assert (low, high) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    mean = mean_of([1.0, None, 3.0, math.nan])
    assert (mean.value, mean.count) == (2.0, 2) and mean.low <= 2 <= mean.high
    assert mean_of([7.0]).low is None and mean_of([None]) is None


def test_perfect_and_wrong_results(folders):
    pairing = pair_up(folders / "out", folders / "HR", folders / "LR")
    found = evaluate(pairing.pairs, parse_metrics("psnr,ssim"))
    a, b = found.cases
    assert (a.result["psnr"], a.result["ssim"]) == (80, pytest.approx(1))  # pyiqa's figure for equal pictures
    assert b.result["psnr"] < b.bicubic["psnr"] < 20 and b.result["ssim"] < 0.2
    assert [case.name for case in found.worst_first()] == ["b", "a"] and found.order_by.name == "ssim"
    difference = found.summary["difference"]["psnr"]
    gains = [case.result["psnr"] - case.bicubic["psnr"] for case in found.cases]
    assert difference.value == pytest.approx(sum(gains) / 2) and difference.count == 2
    assert difference.low == pytest.approx(min(gains)) and difference.high == pytest.approx(max(gains))


def test_pictures_without_a_partner_are_named(folders):
    save(folders / "out" / "extra.png", pixels())
    save(folders / "HR" / "alone.png", pixels())
    (folders / "LR" / "b.jpg").unlink()
    (folders / "out" / "readme.txt").write_text("no picture")
    pairing = pair_up(folders / "out", folders / "HR", folders / "LR")
    assert [pair.name for pair in pairing.pairs] == ["a", "b"]
    extra, alone, lq = pairing.unpaired
    assert extra.startswith("extra has no ground truth of that name") and alone.startswith("alone has no res")
    assert lq.startswith("b has no LQ picture") and pairing.pairs[1].lq is None
    for index in range(7):
        save(folders / "HR" / f"more{index}.png", pixels())
    assert "and 3 more have no result" in pair_up(folders / "out", folders / "HR").unpaired[1]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda f: (f / "HR" / "a.png").rename(f / "HR" / "x.png"), None, None),
        (lambda f: [p.unlink() for p in (f / "HR").iterdir()], ImageError, "holds no pictures"),
        (
            lambda f: [p.rename(p.with_stem(p.stem + "x")) for p in (f / "HR").iterdir()],
            ImageError,
            "name them",
        ),
        (lambda f: save(f / "out" / "a.jpg", pixels()), OptionError, "have the same name"),
        (lambda f: (f / "HR").rename(f / "moved"), ImageError, "does not exist"),
    ],
)
def test_folders_that_do_not_fit(folders, change, error, said):
    change(folders)
    if error is None:
        assert [pair.name for pair in pair_up(folders / "out", folders / "HR").pairs] == ["b"]
        return
    with pytest.raises(error, match=said):
        pair_up(folders / "out", folders / "HR")


def test_files_and_folders_are_not_mixed(folders):
    pair = pair_up(folders / "out" / "b.png", folders / "HR" / "a.png").pairs[0]
    assert (pair.name, pair.truth) == ("b", folders / "HR" / "a.png")
    with pytest.raises(OptionError, match="give all as one kind"):
        pair_up(folders / "out" / "b.png", folders / "HR")


def test_another_size_and_a_broken_file_cost_the_others_nothing(folders, caplog):
    save(folders / "out" / "c.png", pixels(20, 20))
    save(folders / "HR" / "c.png", pixels())
    save(folders / "HR" / "d.png", pixels())
    (folders / "out" / "d.png").write_bytes(b"broken")
    with caplog.at_level(logging.ERROR):
        found = evaluate(pair_up(folders / "out", folders / "HR").pairs, parse_metrics("psnr"))
    assert [case.name for case in found.cases] == ["a", "b"] and set(found.failed) == {"c", "d"}
    assert "c.png has 20x20 pixels, but its ground truth" in found.failed["c"]
    assert "d.png is not an image" in found.failed["d"] and len(caplog.records) == 2
    with pytest.raises(ImageError, match="None of the 1 picture"):
        evaluate(pair_up(folders / "out" / "c.png", folders / "HR" / "c.png").pairs, parse_metrics("psnr"))


def test_grey_alpha_and_16_bits_are_compared_as_8_bit_colours_and_said(folders):
    grey = pixels()[..., 0]
    save(folders / "out" / "g.png", grey)
    save(folders / "HR" / "g.png", np.repeat(grey[..., None], 3, -1))
    rgba = np.concatenate([pixels(), np.full((40, 48, 1), 7, np.uint8)], -1)
    save(folders / "out" / "r.png", rgba)
    save(folders / "HR" / "r.png", pixels())
    save(folders / "out" / "s.png", grey.astype(np.uint16) * 257)
    save(folders / "HR" / "s.png", grey)
    found = evaluate(pair_up(folders / "out", folders / "HR").pairs, parse_metrics("psnr ssim"))
    cases = {case.name: case for case in found.cases}
    for name, words in (("g", "it is grey"), ("r", "transparency is left out"), ("s", "16 bits per channel")):
        assert cases[name].result["psnr"] == 80
        assert words in cases[name].notes[0] and "\n" not in cases[name].notes[0]
    assert not cases["a"].notes


def test_an_lq_picture_of_another_shape_is_not_compared(folders):
    save(folders / "LR" / "a.jpg", pixels(30, 10))
    found = evaluate(pair_up(folders / "out", folders / "HR", folders / "LR").pairs, parse_metrics("psnr"))
    a, b = found.cases
    assert a.bicubic is None and "another shape than the result's 48x40" in a.notes[0] and b.bicubic
    assert found.summary["bicubic"]["psnr"].count == 1


def test_a_picture_that_a_metric_cannot_take(folders):
    save(folders / "out" / "t.png", pixels(9, 30))
    save(folders / "HR" / "t.png", pixels(9, 30, seed=1))
    found = evaluate(pair_up(folders / "out", folders / "HR").pairs, parse_metrics("psnr ssim"))
    tiny = found.cases[-1]
    assert tiny.result["ssim"] is None and tiny.result["psnr"] > 0
    assert tiny.notes == ["SSIM is missing: a side of 9 px is shorter than the 11 px that it takes"]
    assert found.summary["result"]["ssim"].count == 2 and found.worst_first()[-1] is tiny


def test_a_metric_that_fails_or_gives_no_number_is_a_missing_figure():
    def fails(image, truth):
        raise RuntimeError("no such layer\nand more")

    notes = []
    measures = {METRICS["psnr"]: lambda image, truth: math.nan, METRICS["musiq"]: fails}
    assert scores_of(measures, pixels(), pixels(), notes) == {"psnr": None, "musiq": None}
    assert notes == [
        "PSNR is missing: it came out as no number",
        "MUSIQ is missing: RuntimeError: no such layer",
    ]


def test_what_cannot_be_computed_is_skipped_with_the_reason(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyiqa", None)  # as if it were not installed
    cpu = torch.device("cpu")
    measures, skipped = load_measures(parse_metrics("psnr niqe fid"), cpu, False, True, 20)
    assert [metric.name for metric in measures] == ["psnr"]
    assert skipped["niqe"].startswith("NIQE needs the Python package pyiqa; run pip install")
    assert "fewer than 50 pictures says nothing, and there are 20" in skipped["fid"]
    with pytest.raises(MetricUnavailable, match="compares with a ground truth"):
        load_measures(parse_metrics("psnr"), cpu, False, False, 20)


def test_names_of_metrics():
    assert [
        m.name for m in parse_metrics("osediff")
    ] == "psnr ssim lpips dists fid niqe maniqa musiq clipiqa".split()
    assert [m.name for m in parse_metrics(" D2, PSNR;psnr ")] == ["d2", "psnr"]
    for wrong in ("psnr, vmaf", "", " , "):
        with pytest.raises(OptionError, match="choose from osediff, psnr"):
            parse_metrics(wrong)
