"""What a run sees: the same for any number of workers and ranks, each picture once an epoch, exact after a stop."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from data_pictures import assert_same, config, encoded, fill, loader, stems, take
from PIL import Image
from refusals import refused

from osediff_core.degrade import degrade_pair
from training.data import DataError, SourceConfig
from training.data.loader import samples_counted, state_of_rank
from training.data.sampler import Sampler

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("pictures"), 11)


def test_a_batch_is_pairs_of_crops_in_range(folder):
    (batch,) = take(loader(folder, batch=3), 1)
    assert batch.lq.shape == batch.hq.shape == (3, 3, 32, 32) and batch.indices == [0, 1, 2]
    assert batch.lq.abs().max() <= 1 and batch.hq.abs().max() <= 1 and not batch.lq.equal(batch.hq)
    assert batch.prompts == ["", "", ""] and all(name.startswith(str(folder)) for name in batch.names)


def test_hq_is_a_crop_of_the_named_picture_and_lq_the_core_s_degradation(folder):
    (batch,) = take(loader(folder, flip=False, degradation="realesrgan"), 1)
    for n, name, lq, hq in zip(batch.indices, batch.names, batch.lq, batch.hq, strict=True):
        pixels = np.asarray(Image.open(name))
        crop = ((hq + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (32, 32, 3)).reshape(-1, 32, 32, 3)
        assert (windows == crop).all(axis=(1, 2, 3)).any()
        expected, _, _ = degrade_pair(
            (torch.from_numpy(crop).permute(2, 0, 1).float() / 255)[None], seed=5, index=n
        )
        assert torch.allclose(expected[0] * 2 - 1, lq, atol=1e-6)


def test_a_source_may_have_a_degradation_of_its_own(folder):
    sources = [folder, SourceConfig(str(folder), degradation="jpeg")]
    found = {"light": 0, "jpeg": 0}
    for batch in take(loader(*sources, degradation="light"), 8):
        for n, lq, hq in zip(batch.indices, batch.lq, batch.hq, strict=True):
            for preset in found:
                expected, _, _ = degrade_pair((hq[None] + 1) / 2, preset, seed=5, index=n)
                found[preset] += torch.allclose(expected[0] * 2 - 1, lq, atol=1e-6)
    assert found["light"] >= 4 and found["jpeg"] >= 4 and sum(found.values()) == 16


@pytest.mark.parametrize("degradation", ["realesrgan", "bsrgan"])
def test_workers_change_nothing(folder, degradation):
    options = {"degradation": degradation, "prompt_dropout": 0.5, "captions": "text:a wall"}
    alone = take(loader(folder, **options), 6)
    assert {prompt for batch in alone for prompt in batch.prompts} == {"", "a wall"}
    assert_same(alone, take(loader(folder, workers=2, prefetch=3, **options), 6))


def test_the_number_of_threads_changes_nothing_and_is_restored(folder):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = take(loader(folder, degradation="realesrgan"), 3)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert_same(two, take(loader(folder, degradation="realesrgan"), 3))
    finally:
        torch.set_num_threads(before)


def test_global_generators_are_neither_read_nor_moved(folder):
    torch.manual_seed(1), np.random.seed(1)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = take(loader(folder, degradation="realesrgan"), 2)
    assert torch.get_rng_state().equal(torch_state) and (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(2), np.random.seed(2)
    assert_same(first, take(loader(folder, degradation="realesrgan"), 2))


def test_two_ranks_see_what_one_process_with_the_double_batch_sees(folder):
    whole = take(loader(folder, batch=4), 5)
    ranks = [take(loader(folder, batch=2, rank=rank, world=2), 5) for rank in (0, 1)]
    for one, left, right in zip(whole, *ranks, strict=True):
        assert one.indices == left.indices + right.indices and one.names == left.names + right.names
        assert one.hq.equal(torch.cat([left.hq, right.hq])) and one.lq.equal(torch.cat([left.lq, right.lq]))


def test_each_picture_once_an_epoch_in_another_order_each_time(folder):
    seen = stems(take(loader(folder, batch=11), 3))
    epochs = [seen[start : start + 11] for start in (0, 11, 22)]
    assert all(sorted(epoch) == [f"{number:03d}" for number in range(11)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_seeds_differ(folder):
    assert stems(take(loader(folder, batch=11), 1)) != stems(take(loader(folder, batch=11, seed=6), 1))


def test_sources_get_their_shares_and_each_has_its_own_epochs():
    lengths, weights = (50, 7, 1000), (1.0, 3.0, 6.0)
    sampler = Sampler(lengths, weights, seed=3)
    placed = [sampler.place(n) for n in range(20_000)]
    counts = Counter(source for source, _ in placed)
    for source, weight in enumerate(weights):
        share = weight / 10
        assert abs(counts[source] - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5
        indices = [index for found, index in placed if found == source]
        for start in range(0, len(indices) - lengths[source], lengths[source]):
            assert sorted(indices[start : start + lengths[source]]) == list(range(lengths[source]))


def test_a_sample_s_place_does_not_depend_on_what_was_asked_before():
    once = Sampler((50, 7), (1, 2), seed=3)
    expected = [once.place(n) for n in range(9000)]
    for n in (8999, 0, 4096, 4095, 5000):
        assert Sampler((50, 7), (1, 2), seed=3).place(n) == expected[n] == once.place(n)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_in_mid_epoch_gives_the_very_next_batch(folder, workers):
    expected = take(loader(folder, workers=workers), 9)
    pairs = loader(folder, workers=workers, prefetch=3)
    take(pairs, 4)  # workers were further ahead
    state = json.loads(json.dumps(pairs.state()))
    assert_same(take(loader(folder, workers=workers, state=state), 5), expected[4:])
    assert_same(take(pairs, 5), expected[4:])  # the same loader, iterated anew


def test_far_ahead_is_reached_at_once(folder):
    pairs = loader(folder, folder, state={"batches": 5_000_000, "streams": {}})
    assert take(pairs, 1)[0].indices == [10_000_000, 10_000_001]


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (8, 1), (3, 2)])
def test_another_batch_and_another_number_of_ranks_go_on_with_the_very_next_sample(folder, batch, world):
    pairs = [loader(folder, batch=2, rank=rank, world=2) for rank in (0, 1)]
    for one in pairs:
        take(one, 3)
    states = json.loads(json.dumps([one.state() for one in pairs]))
    (expected,) = take(loader(folder, batch=24), 1)
    numbers, names = [], []
    for rank in range(world):
        state = state_of_rank(states, rank, world)
        (found,) = take(loader(folder, batch=batch, rank=rank, world=world, state=state), 1)
        numbers, names = numbers + found.indices, names + found.names
    assert numbers == list(range(12, 12 + batch * world))
    assert names == expected.names[12 : 12 + batch * world]


def test_a_state_that_counted_batches_goes_on_with_the_very_next_sample(folder):
    old = {"batches": 3, "streams": {}, "lengths": [11]}
    state = samples_counted(old, 4, 2)  # six batches of four
    assert take(loader(folder, batch=1, state=state), 1)[0].indices == [24]
    assert take(loader(folder, batch=4, state=old), 1)[0].indices == [12, 13, 14, 15]


def test_another_number_of_pictures_is_said_when_a_run_goes_on(folder, tmp_path, caplog):
    pairs = loader(folder)
    take(pairs, 1)
    loader(fill(tmp_path / "fewer", 5), state=pairs.state())
    assert "other pictures than when the run was saved" in caplog.text


def test_flips_are_half_of_the_crops_or_none(folder, tmp_path):
    ramp = tmp_path / "ramp"
    ramp.mkdir()
    from PIL import Image

    Image.linear_gradient("L").rotate(90).save(ramp / "ramp.png")  # brighter to one side

    def brighter_right(**changes):
        return [
            bool(hq[0, :, -1].mean() > hq[0, :, 0].mean())
            for batch in take(loader(ramp, batch=20, degradation="jpeg", **changes), 4)
            for hq in batch.hq
        ]

    straight = brighter_right(flip=False)
    assert len(set(straight)) == 1
    assert 20 < sum(found != straight[0] for found in brighter_right()) < 60


def test_a_whole_picture_is_squeezed_and_turned_every_way(tmp_path):
    """As the official face loader: LANCZOS to the square; mirrored, upside down, transposed, each half the time."""
    path = fill(tmp_path, 1, size=(80, 60)) / "000.png"
    square = np.asarray(Image.open(path).resize((32, 32), Image.Resampling.LANCZOS))
    ways = [way for turn in range(4) for way in (np.rot90(square, turn), np.rot90(square[:, ::-1], turn))]
    seen = Counter()
    for batch in take(loader(tmp_path, batch=16, picture="whole", rotate=True), 8):
        for hq in batch.hq:
            pixels = ((hq + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            (way,) = (number for number, expected in enumerate(ways) if np.array_equal(pixels, expected))
            seen[way] += 1
    assert len(seen) == 8 and min(seen.values()) >= 6

    whole = take(loader(tmp_path, picture="whole", flip=False), 2)
    for batch in whole:
        pixels = ((batch.hq + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        assert all(np.array_equal(found, square) for found in pixels)


def test_broken_pictures_are_replaced_listed_and_cost_no_step(tmp_path, caplog):
    folder = fill(tmp_path / "some", 6)
    (folder / "torn.png").write_bytes(encoded(1)[:900])
    (folder / "page.png").write_text("<html>not found</html>")
    (folder / "empty.jpg").touch()
    (folder / "gone.png").symlink_to("nowhere.png")
    pairs = loader(folder, batch=10)
    batches = take(pairs, 3)
    assert set(stems(batches)) == {f"{number:03d}" for number in range(6)}
    reasons = {name.rsplit("/", 1)[-1]: reason for name, reason in pairs.report.skipped.items()}
    assert sorted(reasons) == ["empty.jpg", "gone.png", "page.png", "torn.png"]
    assert "cut short" in reasons["torn.png"] and "no picture" in reasons["page.png"]
    assert reasons["empty.jpg"] == "broken: it is empty" and "No such file" in reasons["gone.png"]
    assert caplog.text.count("torn.png") == 1 and pairs.report.as_dict()["skipped_pictures"] == 4
    assert_same(batches, take(loader(folder, batch=10, workers=2), 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_broken_pictures_ends_in_one_sentence(tmp_path, workers):
    (tmp_path / "bad").mkdir()
    for number in range(80):
        (tmp_path / "bad" / f"{number}.png").write_text("no picture")
    with pytest.raises(DataError, match=r"^6[45] pictures in a row cannot be used, the last one .*\.png"):
        take(loader(tmp_path / "bad", workers=workers), 1)


def test_few_sound_pictures_among_many_broken_ones_are_found(tmp_path):
    fill(tmp_path, 1)
    for number in range(40):
        (tmp_path / f"bad{number}.png").write_text("no picture")
    assert set(stems(take(loader(tmp_path, batch=30), 2))) == {"000"}


def test_small_pictures_are_enlarged_or_skipped_and_counted(tmp_path):
    fill(tmp_path, 3, size=(40, 40))
    fill(tmp_path, 2, size=(20, 100), first=3)
    enlarged = loader(tmp_path, batch=5)
    (batch,) = take(enlarged, 1)
    assert len(set(batch.names)) == 5 and len(enlarged.report.small) == 2
    skipped = loader(tmp_path, batch=5, small="skip")
    (batch,) = take(skipped, 1)
    assert set(stems([batch])) == {"000", "001", "002"} and len(skipped.report.skipped) == 2
    assert "20x100" in next(iter(skipped.report.skipped.values()))


def test_extreme_shapes_cost_no_memory(tmp_path):
    fill(tmp_path, 1, size=(1, 20_000))
    fill(tmp_path, 1, size=(1, 1), first=1)
    assert take(loader(tmp_path, resolution=256), 1)[0].hq.shape == (2, 3, 256, 256)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sources": ()}, "data.sources is empty"),
        ({"resolution": 0}, "data.resolution is 0"),
        ({"small": "shrink"}, "use enlarge or skip"),
        ({"prompt_dropout": 2.0}, "data.prompt_dropout"),
        ({"workers": -1}, "data.workers"),
        ({"degradation": "rain"}, "rain"),
        ({"sources": (SourceConfig("here", degradation="snow"),)}, "snow"),
        ({"scale": 0.5}, "scale"),
        ({"captions": "telepathy"}, "tagger:NAME"),
        ({"captions": "tagger:dape"}, "use appearance"),
        ({"captions": "tagger:no.such:thing"}, "cannot be imported"),
        ({"captions": "tagger:os:name"}, "cannot be called"),
        ({"captions": "file:/nowhere.jsonl"}, "python -m training.caption"),
    ],
)
def test_settings_that_cannot_be_are_said_in_one_sentence(folder, changes, words):
    from dataclasses import replace

    from training.data import PairLoader

    with refused(DataError, words):
        PairLoader(replace(config(folder), **changes), 2, 0)


def test_a_resolution_that_the_base_cannot_take_is_said(folder):
    from training.data import PairLoader

    with pytest.raises(DataError, match=r"36.*multiple of 8; take 40"):
        PairLoader(config(folder, resolution=36), 2, 0).check_multiple(8)


def test_weights_and_limits_that_cannot_be(folder):
    for change in ({"weight": 0.0}, {"weight": float("nan")}, {"limit": -1}):
        with pytest.raises(DataError):
            loader(SourceConfig(str(folder), **change))


def test_captions_beside_the_picture_by_list_and_by_tagger(folder, tmp_path):
    beside = fill(tmp_path / "beside", 2)
    (beside / "000.txt").write_text("a harbour\nsecond line")
    (batch,) = take(loader(beside, captions="files"), 1)
    assert dict(zip(stems([batch]), batch.prompts, strict=True)) == {"000": "a harbour", "001": ""}

    listed = tmp_path / "captions.jsonl"
    rows = [
        {"name": f"{beside}/000.png", "caption": "boats"},
        {"name": f"{beside}/001.png", "caption": "a wall"},
    ]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"name": "torn')
    (batch,) = take(loader(beside, captions=f"file:{listed}"), 1)
    assert dict(zip(stems([batch]), batch.prompts, strict=True)) == {"000": "boats", "001": "a wall"}
    with pytest.raises(DataError, match="name no picture of"):
        loader(folder, captions=f"file:{listed}")

    def tagger(images):
        assert images.shape[1:] == (3, 32, 32) and images.abs().max() <= 1
        return [f"{image.mean():.4f}" for image in images]

    batches = take(loader(folder, batch=8, captions="tagger:x:y", tagger=tagger, prompt_dropout=0.4), 2)
    for batch in batches:
        for prompt, hq in zip(batch.prompts, batch.hq, strict=True):
            assert prompt in ("", f"{hq.mean():.4f}")
    (batch,) = take(loader(folder, captions="tagger:appearance", workers=1), 1)
    assert all("texture" in prompt for prompt in batch.prompts)


def test_no_worker_is_left_behind(folder):
    import multiprocessing

    batches = iter(loader(folder, workers=2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not [child for child in multiprocessing.active_children() if child.is_alive()] and os.getpid()


def test_a_worker_outlives_a_signal_but_not_the_trainer(folder):
    script = f"""
import multiprocessing, os, signal
from training.data import DataConfig, PairLoader, SourceConfig
data = DataConfig([SourceConfig({str(folder)!r})], resolution=32, degradation="light", workers=1, prefetch=1)
batches = iter(PairLoader(data, 2, 0))
next(batches)
(worker,) = multiprocessing.active_children()
for _ in range(3):
    os.kill(worker.pid, signal.SIGTERM)
    next(batches)
assert worker.is_alive()
print("going", flush=True)
"""  # and ends with the iterator in its hands, as after an error
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "going" in done.stdout, done.stderr


def test_half_of_the_prompts_are_dropped(folder):
    batches = take(loader(folder, batch=50, captions="text:x", prompt_dropout=0.5), 4)
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    assert 70 <= prompts.count("") <= 130
