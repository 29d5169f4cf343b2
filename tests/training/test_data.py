"""Which pictures a run sees, and what becomes of those that cannot be used."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data import DataConfig, DataError, PairLoader, SourceConfig
from training.data.captions import find_tagger, read_captions
from training.data.pictures import decode
from training.data.prompts import PromptCache
from training.data.sampler import Sampler

ROOT = Path(__file__).parents[2]


def picture(seed, size=(60, 50)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        picture(index).save(tmp_path / f"pictures/{index}.png")
        (tmp_path / f"pictures/{index}.txt").write_text(f"number {index}\n")
    return tmp_path / "pictures"


def config(*paths, **options):
    sources = tuple(path if isinstance(path, SourceConfig) else SourceConfig(str(path)) for path in paths)
    return DataConfig(sources, **{"resolution": 32, "degradation": "light", "workers": 0, **options})


def take(loader, count):
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.lq, other.lq) and torch.equal(one.hq, other.hq)
        assert (one.prompts, one.names, one.indices) == (other.prompts, other.names, other.indices)


# ---- which sample is which ----


def test_workers_change_nothing(folder):
    alone = take(PairLoader(config(folder, captions="files"), 2, seed=3), 5)
    assert_same(take(PairLoader(config(folder, captions="files", workers=2), 2, seed=3), 5), alone)
    assert (
        alone[0].lq.shape == (2, 3, 32, 32) and -1 <= float(alone[0].lq.min()) < float(alone[0].lq.max()) <= 1
    )
    assert not torch.equal(alone[0].lq, alone[0].hq)
    other_seed = take(PairLoader(config(folder), 2, seed=4), 5)
    assert not torch.equal(other_seed[0].hq, alone[0].hq)


def test_two_ranks_see_what_one_process_sees(folder):
    (whole,) = take(PairLoader(config(folder), 4, seed=3), 1)
    ranks = [take(PairLoader(config(folder), 2, 3, rank, 2), 1)[0] for rank in range(2)]
    assert torch.equal(torch.cat([batch.hq for batch in ranks]), whole.hq)
    assert ranks[0].indices + ranks[1].indices == whole.indices == [0, 1, 2, 3]


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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_goes_on_with_the_next_batch(workers, folder):
    options = {"workers": workers, "prefetch": 3}
    expected = take(PairLoader(config(folder, **options), 2, 3), 7)
    first = PairLoader(config(folder, **options), 2, 3)
    take(first, 4)  # workers are ahead of what was received
    resumed = PairLoader(config(folder, **options), 2, 3, state=first.state())
    assert_same(take(resumed, 3), expected[4:])


def test_every_picture_comes_once_an_epoch():
    sampler = Sampler([7], [1.0], seed=5)
    epochs = [[sampler.place(n)[1] for n in range(7 * epoch, 7 * epoch + 7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_sources_are_mixed_by_weight_and_each_in_its_own_order():
    sampler = Sampler([10, 1000], [1.0, 3.0], seed=5)
    places = [sampler.place(n) for n in range(20_000)]
    assert abs(np.mean([source for source, _ in places]) - 0.75) < 0.02
    small = [index for source, index in places if source == 0]
    assert all(sorted(small[k : k + 10]) == list(range(10)) for k in range(0, len(small) - 10, 10))
    fresh = Sampler([10, 1000], [1.0, 3.0], seed=5)
    assert [fresh.place(n) for n in (19_999, 3, 12_345)] == [places[n] for n in (19_999, 3, 12_345)]


# ---- sources ----


def test_lists_are_relative_to_themselves_and_lack_nothing_but_what_is_missing(folder):
    (folder / "list.txt").write_text("0.png\n\n1.png\ngone.png\n")
    loader = PairLoader(config(SourceConfig(str(folder / "list.txt"))), 3, 0)
    names = {name for batch in take(loader, 4) for name in batch.names}
    assert {name.rsplit("/", 1)[-1] for name in names} == {"0.png", "1.png"}
    assert list(loader.skipped) == [str(folder / "gone.png")]


def test_limit_takes_the_first(folder):
    loader = PairLoader(config(SourceConfig(str(folder), limit=2)), 4, 0)
    assert {name[-5:] for batch in take(loader, 3) for name in batch.names} == {"0.png", "1.png"}


def make_shards(folder, count=2):
    for shard in range(count):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for index in range(3):
                for suffix, data in (
                    ("png", encoded(picture(10 * shard + index))),
                    ("txt", b"words %d" % index),
                ):
                    member = tarfile.TarInfo(f"k{shard}{index}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def test_shards_are_read_in_any_order(tmp_path):
    make_shards(tmp_path)
    loader = PairLoader(config(tmp_path / "*.tar", captions="files"), 6, 0)
    (batch,) = take(loader, 1)
    assert sorted(name[-3:] for name in batch.names) == ["k00", "k01", "k02", "k10", "k11", "k12"]
    assert all(prompt == f"words {name[-1]}" for prompt, name in zip(batch.prompts, batch.names, strict=True))


def test_shards_hold_the_very_pictures(tmp_path):
    from training.data.sources import Shards

    make_shards(tmp_path, 1)
    shards = Shards([tmp_path / "0.tar"])
    assert [decode(shards.read(i)).tobytes() for i in range(3)] == [picture(i).tobytes() for i in range(3)]


@pytest.fixture
def parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": encoded(picture(index)), "path": None} for index in range(7)],
        "caption": [f"row {index}" for index in range(7)],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False))
    table.to_parquet(str(tmp_path / "rows.parquet"))
    return tmp_path / "rows.parquet"


def test_tables_are_read_in_any_order(parquet):
    loader = PairLoader(config(parquet, captions="files"), 7, 0)
    (batch,) = take(loader, 1)
    assert sorted(batch.prompts) == [f"row {index}" for index in range(7)]


@pytest.mark.parametrize("workers", [0, 1])
def test_streams_go_on_where_they_stood(workers, parquet):
    streamed = SourceConfig(str(parquet), streaming=True, window=4)
    options = {"captions": "files", "workers": workers}
    expected = take(PairLoader(config(streamed, **options), 2, 3), 9)
    first_epoch = [prompt for batch in expected for prompt in batch.prompts][:7]
    assert sorted(first_epoch) == [f"row {index}" for index in range(7)]
    first = PairLoader(config(streamed, **options), 2, 3)
    for done in (1, 4):  # in the first epoch and in the second one
        take(first, done)
        resumed = PairLoader(config(streamed, **options), 2, 3, state=first.state())
        at = first.state()["batches"]
        assert_same(take(resumed, 2), expected[at : at + 2])


# ---- pictures that are not as they should be ----


def test_broken_pictures_are_skipped_and_named(folder):
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    loader = PairLoader(config(folder), 8, 0)
    again = PairLoader(config(folder, workers=1), 8, 0)
    assert_same(take(again, 3), take(loader, 3))
    assert sorted(name.rsplit("/", 1)[-1] for name in loader.skipped) == ["cut.png", "text.jpg"]
    assert all(reason.startswith("broken") for reason in loader.skipped.values())


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_broken_pictures(workers, tmp_path):
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="in a row cannot be used") as caught:
        take(PairLoader(config(tmp_path, workers=workers), 2, 0), 1)
    assert "\n" not in str(caught.value)


def test_small_pictures_are_enlarged_or_skipped(folder):
    picture(9, (20, 100)).save(folder / "narrow.png")
    loader = PairLoader(config(folder), 7, 0)
    take(loader, 1)
    assert loader.enlarged == 1 and not loader.skipped
    skipping = PairLoader(config(folder, small="skip"), 7, 0)
    take(skipping, 1)
    assert skipping.enlarged == 0 and [name[-10:] for name in skipping.skipped] == ["narrow.png"]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_any_kind_of_picture_becomes_rgb(mode):
    grey = Image.fromarray(np.full((40, 40), 32768, np.uint16)) if mode == "I;16" else None
    image = grey or picture(0).convert(mode)
    found = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert found.mode == "RGB" and found.size == image.size
    if mode == "I;16":
        assert found.getpixel((0, 0)) == (128, 128, 128)


def test_pictures_are_upright():
    image = picture(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", exif=exif)
    assert decode(buffer.getvalue()).size == (50, 60)


# ---- captions ----


def test_prompts_come_from_where_they_should(folder, tmp_path):
    names = [str(path) for path in sorted(folder.glob("*.png"))]
    (tmp_path / "captions.jsonl").write_text(
        "".join(f'{{"name": "{name}", "caption": "c{name[-5]}"}}\n' for name in names[:5]) + '{"name": "to'
    )
    (plain,) = take(PairLoader(config(folder, captions="text:a wall"), 6, 0), 1)
    assert set(plain.prompts) == {"a wall"}
    (listed,) = take(PairLoader(config(folder, captions=f"file:{tmp_path / 'captions.jsonl'}"), 6, 0), 1)
    for prompt, name in zip(listed.prompts, listed.names, strict=True):
        assert prompt == ("" if name.endswith("5.png") else f"c{name[-5]}")
    (tagged,) = take(PairLoader(config(folder, captions="tagger:appearance", prompt_dropout=0.5), 6, 0), 1)
    assert "" in tagged.prompts and "texture" in " ".join(tagged.prompts)


def test_half_of_the_prompts_are_dropped(folder):
    loader = PairLoader(config(folder, captions="text:x", prompt_dropout=0.5), 50, 0)
    prompts = [prompt for batch in take(loader, 4) for prompt in batch.prompts]
    assert 70 <= prompts.count("") <= 130


def test_a_torn_last_caption_is_left_out_and_a_wrong_line_is_not(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": "a", "caption": "b"}\n{"na')
    assert read_captions(tmp_path / "a.jsonl") == {"a": "b"}
    (tmp_path / "b.jsonl").write_text('oops\n{"name": "a", "caption": "b"}\n')
    with pytest.raises(DataError, match="Line 1"):
        read_captions(tmp_path / "b.jsonl")


def test_taggers_by_name():
    assert find_tagger("appearance")(torch.zeros(2, 3, 8, 8)) == ["black and white, blurry"] * 2
    assert find_tagger("builtins:len") is len
    for name in ("dape", "no.such.module:tag"):
        with pytest.raises(DataError):
            find_tagger(name)


def test_the_text_encoder_runs_once_for_each_prompt(tmp_path):
    asked = []

    def encode(prompts):
        asked.extend(prompts)
        return torch.full((len(prompts), 2, 3), float(len(prompts[0])))

    cache = PromptCache(encode, tmp_path / "cache", keep=1, identity="base")
    first = cache(["a", "bb", "a"])
    assert first[:, 0, 0].tolist() == [1, 2, 1] and asked == ["a", "bb"]
    assert torch.equal(cache(["bb", "a"]), first[[1, 0]]) and asked == ["a", "bb"]  # from the disk
    PromptCache(encode, tmp_path / "cache", identity="another base")(["a"])
    assert asked == ["a", "bb", "a"]
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert torch.equal(PromptCache(encode, tmp_path / "cache", identity="base")(["a", "bb", "a"]), first)
