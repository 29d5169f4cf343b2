"""Data sets of Hugging Face's `datasets`, made here: tables in any order, streams that go on exactly."""

import json
from collections import Counter

import pytest
from data_pictures import assert_same, encoded, fill, loader, take, write_tar
from refusals import refused

from training.data import DataError, SourceConfig
from training.data.loader import state_of_rank

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def table(count, first=0):
    rows = range(first, first + count)
    return datasets.Dataset.from_dict(
        {
            "picture": [{"bytes": encoded(number), "path": None} for number in rows],
            "caption": [f"number {number}" for number in rows],
        }
    ).cast_column("picture", datasets.Image())


@pytest.fixture
def parquet(tmp_path):
    """10 pictures in 3 files with several row groups."""
    for shard, (first, count) in enumerate([(0, 4), (4, 4), (8, 2)]):
        table(count, first).to_parquet(str(tmp_path / f"{shard}.parquet"), batch_size=2)
    return SourceConfig(f"{tmp_path}/*.parquet")


def streamed(source, **changes):
    return SourceConfig(source.path, **({"kind": "dataset", "streaming": True, "window": 4} | changes))


def test_tables_from_parquet_a_saved_folder_and_pictures_are_alike(parquet, tmp_path):
    table(10).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": table(10), "test": table(1)}).save_to_disk(str(tmp_path / "both"))
    folder = fill(tmp_path / "folder", 10)
    expected = take(loader(folder, batch=5), 3)
    for source in (parquet, SourceConfig(f"{tmp_path}/saved"), SourceConfig(f"{tmp_path}/both")):
        found = take(loader(source, batch=5, captions="files", workers=1), 3)
        for one, other in zip(found, expected, strict=True):
            assert one.hq.equal(other.hq) and one.lq.equal(other.lq)
            numbers = [int(name.rsplit("/", 1)[-1][:3]) for name in other.names]
            assert one.prompts == [f"number {number}" for number in numbers]
    images = SourceConfig(str(folder), kind="dataset")
    assert take(loader(images, batch=5), 1)[0].hq.equal(expected[0].hq)
    assert len(loader(SourceConfig(f"{tmp_path}/saved", limit=3)).sources[0]) == 3


def test_a_folder_of_parquet_files_is_found(parquet, tmp_path):
    expected = take(loader(parquet, batch=5), 2)
    for one, other in zip(take(loader(tmp_path, batch=5), 2), expected, strict=True):
        assert one.hq.equal(other.hq) and one.lq.equal(other.lq)


def test_a_stream_gives_each_picture_once_an_epoch_shuffled_in_windows(parquet):
    (first, second) = take(loader(streamed(parquet), batch=10, captions="files"), 2)
    everything = {f"number {number}" for number in range(10)}
    assert set(first.prompts) == set(second.prompts) == everything and first.prompts != second.prompts
    assert {prompt for prompt in first.prompts[:4]} == {f"number {number}" for number in range(4)}
    (limited,) = take(loader(streamed(parquet, limit=3), batch=6, captions="files"), 1)
    assert Counter(limited.prompts) == {f"number {number}": 2 for number in range(3)}


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_stream_goes_on_exactly_whatever_workers_had_prefetched(parquet, stop):
    options = {"batch": 3, "captions": "files"}
    expected = take(loader(streamed(parquet), **options), 11)
    pairs = loader(streamed(parquet), workers=2, prefetch=2, **options)
    assert_same(take(pairs, stop), expected[:stop])
    state = json.loads(json.dumps(pairs.state()))
    assert_same(take(loader(streamed(parquet), state=state, **options), 11 - stop), expected[stop:])
    assert_same(take(pairs, 2), expected[stop : stop + 2])


def test_a_stream_beside_a_folder_goes_on_exactly(parquet, tmp_path):
    sources = (streamed(parquet), SourceConfig(str(fill(tmp_path / "folder", 5)), weight=2))
    expected = take(loader(*sources, batch=4), 8)
    pairs = loader(*sources, batch=4)
    take(pairs, 3)
    assert_same(take(loader(*sources, batch=4, state=pairs.state()), 5), expected[3:])


def test_a_stream_goes_on_with_another_batch_but_not_with_another_number_of_processes(parquet):
    (expected,) = take(loader(streamed(parquet), batch=20), 1)
    pairs = loader(streamed(parquet), batch=3)
    take(pairs, 2)
    (found,) = take(loader(streamed(parquet), batch=5, state=pairs.state()), 1)
    assert found.names == expected.names[6:11]
    with refused(DataError, "1 processes, not 2", "stream"):
        state_of_rank([pairs.state()], 0, 2)


def test_ranks_share_a_stream_out(parquet):
    halves = [
        take(loader(streamed(parquet), batch=5, rank=rank, world=2, captions="files"), 1)[0].prompts
        for rank in (0, 1)
    ]
    assert sorted(halves[0] + halves[1]) == sorted(f"number {number}" for number in range(10))


def test_webdataset_shards_stream_too(tmp_path):
    for shard in range(2):
        numbers = range(3 * shard, 3 * shard + 3)
        pictures = {f"{n:03d}.png": encoded(n) for n in numbers} | {f"{n:03d}.txt": b"tree" for n in numbers}
        write_tar(tmp_path / f"{shard}.tar", dict(sorted(pictures.items())))
    source = SourceConfig(f"{tmp_path}/*.tar", kind="dataset", streaming=True, window=3, caption_column="txt")
    expected = take(loader(source, batch=2, captions="files"), 6)
    assert set(expected[0].prompts) == {"tree"}
    assert {name for batch in expected[:3] for name in batch.names} == {f"{n:03d}" for n in range(6)}
    pairs = loader(source, batch=2, captions="files")
    take(pairs, 2)
    assert_same(take(loader(source, batch=2, captions="files", state=pairs.state()), 4), expected[2:])


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_pictures_of_a_stream_are_replaced_from_their_window(tmp_path, workers):
    data = [encoded(0), b"no picture", b"", encoded(3)]
    rows = datasets.Dataset.from_dict({"image": [{"bytes": one, "path": None} for one in data]})
    rows.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "a.parquet"))
    source = streamed(SourceConfig(f"{tmp_path}/a.parquet"))
    pairs = loader(source, batch=1, workers=workers)  # a batch without a neighbour to take instead
    found = take(pairs, 8)
    assert len({name for batch in found for name in batch.names}) == 4  # rows 0 and 3 in two epochs
    assert len(pairs.report.skipped) == 4
    assert_same(found, take(loader(source, batch=1), 8))


def test_data_sets_that_cannot_be_used_are_said_in_one_sentence(parquet, tmp_path):
    table(2).remove_columns("picture").save_to_disk(str(tmp_path / "texts"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.parquet").write_text("no parquet")
    for source, words in (
        (SourceConfig(parquet.path, image_column="photo"), "photo"),
        (SourceConfig(f"{tmp_path}/texts"), "no column of pictures"),
        (SourceConfig(f"{tmp_path}/bad/*.parquet"), "; check path"),
        (SourceConfig(f"{tmp_path}/none-*.parquet"), "No .parquet file"),
        (SourceConfig("someone/something", kind="dataset"), "allow_download"),
        (SourceConfig("someone/something", kind="dataset", streaming=True), "allow_download"),
    ):
        with refused(DataError, words):
            loader(source)


def test_nothing_is_asked_of_the_network(parquet, monkeypatch):
    import socket

    def refused(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    take(loader(parquet), 1), take(loader(streamed(parquet)), 1)
    with pytest.raises(DataError, match="allow_download"):
        loader(SourceConfig("someone/something", kind="dataset"))
