import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from training.run.curves import series, smoothed
from training.run.errors import TrainingError
from training.run.logs import RunLog, read_log
from training.run.report import best_step, main, seconds_per_step, write_report

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Text, pictures, and whether every element is closed."""

    def __init__(self, source):
        super().__init__()
        self.open, self.text, self.images, self.links = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            self.images.append(values["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def picture_of(source):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    assert image.format.lower() == kind
    return image


@pytest.fixture
def run(tmp_path):
    """40 steps, validated four times, best at step 20; killed while it wrote."""
    folder = tmp_path / "a <run>"
    config = {"steps": 100, "optim": {"clip": 1.0, "betas": (0.9, 0.99)}, "resume": None}
    run_log = RunLog(folder, (), 0, config)
    (folder / "sheets").mkdir()
    for step in range(0, 41):
        if step:
            values = {
                "loss": 1 / step,
                "grad_norm": 2.0,
                "learning_rate": 1e-4,
                "new_term": 3.0,
                "skipped": 7,
            }
            run_log.log(step, values)
        if step in (0, 10, 20, 40):
            distance = {0: 0.9, 10: 0.5, 20: 0.25, 40: 0.3}[step]
            figures = {"psnr_y": 20 + step / 10, "ssim_y": 0.5, "distance": distance}
            run_log.log(step, figures | {"bicubic_distance": 0.8, "bicubic_psnr_y": 19.5}, kind="validation")
            colour = (step, 100, 100)
            Image.new("RGB", (1500, 300), colour).save(folder / "sheets" / f"step_{step:08d}.png")
    run_log.log(41, {"loss": float("nan")})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 42, "val')
    return folder


def test_the_page(run):
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not page.open
    assert all(link.startswith("data:image/") for link in page.links)  # self-contained
    text = " ".join(page.text)
    for expected in (
        "a <run>",
        "41 of 100 steps",
        "best 0.2500 at step 20",
        "enlarged LQ 0.8000",
        "24.00 dB",
        "Step 0 (first)",
        "Step 20 (best)",
        "Step 40 (last)",
        "optim.betas 0.9; 0.99",
        "skipped pictures 7",
        "seconds per step",
        "torch",
    ):
        assert expected in text
    curves, *sheets = map(picture_of, page.images)
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG" and curves.width > 1000
    assert [sheet.getpixel((5, 5))[0] for sheet in sheets] == pytest.approx([0, 20, 40], abs=3)
    assert all(sheet.width <= 1100 for sheet in sheets)


def test_made_again_from_the_log_alone(run, capsys):
    (run / "run.json").unlink()
    for sheet in (run / "sheets").iterdir():
        sheet.unlink()
    assert main([str(run)]) == 0
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert len(page.images) == 1 and "Validation pictures" not in page.text


def test_a_run_that_has_just_begun(tmp_path):
    RunLog(tmp_path, (), 0, {}).close()
    assert "0 steps" in " ".join(Page(write_report(tmp_path).read_text()).text)


def test_a_damaged_sheet_is_left_out(run):
    (run / "sheets" / "step_00000020.png").write_bytes(b"half")
    assert "Step 20" not in write_report(run).read_text()


def test_no_run(tmp_path, caplog):
    with pytest.raises(TrainingError, match="cannot be read"):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 1
    assert "cannot be read" in caplog.text


def test_figures(run):
    rows = read_log(run)
    assert best_step(rows) == 20 and best_step(rows, "psnr_y") == 40
    steps, values = series(rows, "train", "loss")
    assert steps[-1] == 40 and len(values) == 40  # NaN is no point of a curve
    assert seconds_per_step(rows[:1]) is None
    lines = [{"step": s, "seconds": 2.0 * s + 100 * (s > 25), "kind": "train"} for s in range(0, 50, 10)]
    assert seconds_per_step(lines) == 2.0  # a validation between two rows does not count


def test_smoothing():
    noisy = np.tile([0.0, 2.0], 300)
    assert np.abs(smoothed(noisy)[30:-30] - 1).max() < 0.05
    np.testing.assert_allclose(smoothed(np.full(100, 3.0)), 3)
    assert len(smoothed(np.array([1.0]))) == 1


def test_rows_stay_json(run):
    for line in (run / "metrics.jsonl").read_text().splitlines()[:-1]:
        json.loads(line, parse_constant=pytest.fail)
