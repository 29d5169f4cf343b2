"""Metrics of all pictures together, by ones that only count files; pyiqa's FID is in test_evaluate_pyiqa.py."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchmetrics", reason="the eval extra is not installed")

from osediff_core.errors import ImageError
from osediff_core.evaluate import evaluate, evaluation, pair_up, parse_metrics
from osediff_core.evaluate import fid as whole_set
from osediff_core.evaluate.metric import MetricUnavailable
from osediff_core.evaluate.metrics import METRICS, load_measure

FID, PSNR = METRICS["fid"], METRICS["psnr"]


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Three pairs with LQ, of which FID is enough."""
    monkeypatch.setattr(whole_set, "LEAST_FOR_FID", 3)
    for seed, name in enumerate("abc"):
        picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8))
        for folder in ("out", "HR", "LR"):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture.save(tmp_path / folder / f"{name}.png")
    return tmp_path


@pytest.fixture
def measured(pairs, monkeypatch):
    """Evaluates them by PSNR and by `fid` in FID's place."""

    def run(fid, names="psnr fid", **options):
        measures = {PSNR: load_measure(PSNR, "cpu"), FID: fid}
        monkeypatch.setattr(
            evaluation, "load_measures", lambda metrics, *_: ({m: measures[m] for m in metrics}, {})
        )
        found = pair_up(pairs / "out", pairs / "HR", pairs / "LR")
        return evaluate(found.pairs, parse_metrics(names), **options)

    return run


def count(results: Path, truth: Path) -> float:
    """Ten for each result, one for each truth; pictures must be whole."""
    return 10.0 * sum(Image.open(file).size == (16, 12) for file in results.iterdir()) + len(
        list(truth.iterdir())
    )


def failing(error, on="result"):
    def measure(results, truth):
        if results.name == on:
            raise error
        return count(results, truth)

    return measure


def test_results_and_bicubic_are_measured_together_and_nothing_is_left(measured, pairs, monkeypatch):
    folder = pairs / "tmp"
    folder.mkdir()
    monkeypatch.setattr(whole_set.tempfile, "tempdir", str(folder))
    found = measured(count)
    for method in ("result", "bicubic"):
        assert (found.summary[method]["fid"].value, found.summary[method]["fid"].count) == (33, 3)
        assert found.summary[method]["fid"].low is None
    assert not found.skipped and not list(folder.iterdir())


def test_bicubic_of_other_pictures_is_no_comparison(measured, pairs):
    (pairs / "LR/b.png").unlink()
    found = measured(count)
    assert found.summary["result"]["fid"].value == 33 and "fid" not in found.summary["bicubic"]


@pytest.mark.parametrize("names", ["psnr fid", "fid"])
def test_too_few_that_could_be_measured(measured, pairs, names):
    (pairs / "out/b.png").write_text("no picture")
    if names == "fid":
        with pytest.raises(
            MetricUnavailable, match="No metric could be computed: FID of 2 pictures says nothing"
        ):
            measured(count, names)
        return
    found = measured(count)
    assert found.skipped == {"fid": "FID of 2 pictures says nothing; give more."}
    assert [m.name for m in found.metrics] == ["psnr"]


def test_one_that_fails_costs_the_others_nothing(measured):
    found = measured(failing(ValueError("singular\nmatrix")))
    assert (
        found.skipped == {"fid": "FID could not be computed (singular)."}
        and "psnr" in found.summary["result"]
    )
    found = measured(failing(ValueError("singular"), on="bicubic"))
    assert not found.skipped and found.summary["result"]["fid"].value == 33
    assert "fid" not in found.summary["bicubic"] and "psnr" in found.summary["bicubic"]


def test_a_full_disk_costs_fid_alone(measured, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    found = measured(count)
    assert "cannot be written (No space left on device); free space" in found.skipped["fid"]
    assert len(found.cases) == 3 and found.summary["result"]["psnr"].count == 3


def test_ctrl_c_ends_with_what_is_measured(measured):
    def stopped(after):
        def progress(pairs):
            yield from pairs[:after]
            raise KeyboardInterrupt

        return progress

    found = measured(count, progress=stopped(2))
    assert found.interrupted and [case.name for case in found.cases] == ["a", "b"]
    assert found.skipped == {"fid": "FID takes all pictures, and was interrupted."}
    assert found.summary["result"]["psnr"].count == 2
    with pytest.raises(KeyboardInterrupt):
        measured(count, progress=stopped(0))
    found = measured(failing(KeyboardInterrupt()))
    assert found.interrupted and len(found.cases) == 3 and set(found.skipped) == {"fid"}


def test_none_that_can_be_measured(measured, pairs):
    for name in "abc":
        (pairs / f"out/{name}.png").write_text("no picture")
    with pytest.raises(ImageError, match="None of the 3 pictures"):
        measured(count)
