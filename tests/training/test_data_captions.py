"""Captions made beforehand: what was done stays done, whenever the run was stopped."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from data_pictures import encoded, fill, loader, stems, take, write_tar

from training.caption import caption, main
from training.data import DataError, SourceConfig
from training.data.captions import find_tagger, read_captions
from training.data.prompts import PromptCache, identity_of
from training.data.sources import open_source

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "pictures", 6)


def counting(seen):
    def tag(images):
        assert images.shape == (1, 3, 40, 48) and -1 <= images.min() and images.max() <= 1
        seen.append(float(images.mean()))
        return [f"picture {len(seen)}"]

    return tag


def test_captions_of_all_sources_are_what_training_then_reads(folder, tmp_path):
    write_tar(tmp_path / "a.tar", {"x.png": encoded(9)})
    out, shard = tmp_path / "deep" / "captions.jsonl", f"{tmp_path}/a.tar"
    assert main(["--out", str(out), "--tagger", "appearance", str(folder), shard]) == 0
    found = read_captions(out)
    assert list(found) == [f"{folder}/{number:03d}.png" for number in range(6)] + [f"{shard}/x"]
    (batch,) = take(loader(folder, shard, captions=f"file:{out}"), 1)
    assert batch.prompts == [found[name] for name in batch.names] and all(batch.prompts)


def test_it_goes_on_after_a_torn_line_and_tags_nothing_twice(folder, tmp_path):
    out, seen = tmp_path / "captions.jsonl", []
    source = open_source(SourceConfig(str(folder)))
    caption([source], counting(seen), out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:3]) + lines[3][:20])
    caption([source], counting(seen), out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["name"] for row in rows] == [json.loads(line)["name"] for line in lines] and len(
        seen
    ) == 6 + 3
    before = out.read_bytes()
    caption([source], counting(seen), out)
    assert out.read_bytes() == before and len(seen) == 9


def test_killed_and_started_again_it_ends_as_if_it_had_not_been(tmp_path):
    folder = fill(tmp_path / "pictures", 40)
    tagger = tmp_path / "slow_tagger.py"
    tagger.write_text(
        "import time\n"
        "def tag(images):\n"
        "    time.sleep(0.02)\n"
        "    return [f'{image.mean():.5f}' for image in images]\n"
    )
    out = tmp_path / "captions.jsonl"
    arguments = ["--out", str(out), "--tagger", "slow_tagger:tag", str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.caption", *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=ROOT)
    while not out.exists() or out.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert out.read_bytes().count(b"\n") < 40
    sys.path.insert(0, str(tmp_path))
    try:
        assert main(arguments) == 0
    finally:
        sys.path.remove(str(tmp_path))
    alone = tmp_path / "alone.jsonl"
    caption([open_source(SourceConfig(str(folder)))], find_tagger("slow_tagger:tag"), alone)
    assert out.read_bytes() == alone.read_bytes()


def test_broken_pictures_are_listed_and_the_rest_is_done(folder, tmp_path, caplog):
    (folder / "torn.png").write_bytes(encoded(1)[:500])
    out = tmp_path / "captions.jsonl"
    skipped = caption([open_source(SourceConfig(str(folder)))], counting([]), out)
    assert [name.rsplit("/", 1)[-1] for name in skipped] == ["torn.png"] and "torn.png" in caplog.text
    assert len(read_captions(out)) == 6


def test_errors_are_one_sentence(folder, tmp_path, caplog):
    out = tmp_path / "captions.jsonl"
    for arguments, words in (
        (["--tagger", "ram", str(folder)], "use appearance, tiny, a file of RAM"),
        (["--tagger", "ram.pth", str(folder)], "ram.pth does not exist"),
        (["--tagger", "appearance", str(tmp_path / "nowhere")], "no folder"),
        (["--tagger", "appearance", str(folder), "--embeddings", str(tmp_path)], "--base"),
    ):
        caplog.clear()
        assert main(["--out", str(out), *arguments]) == 1
        assert words in caplog.text
    out.write_text("not a caption\n" + json.dumps({"name": "a", "caption": "b"}) + "\n")
    with pytest.raises(DataError, match="Line 1 of"):
        caption([open_source(SourceConfig(str(folder)))], counting([]), out)
    with pytest.raises(DataError, match="cannot be written"):
        caption([open_source(SourceConfig(str(folder)))], counting([]), folder / "000.png" / "captions.jsonl")


def test_a_list_of_broken_pictures_only_is_an_error(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no picture")
    with pytest.raises(DataError, match="No picture can be captioned"):
        caption([open_source(SourceConfig(str(tmp_path / "bad")))], counting([]), tmp_path / "out.jsonl")


def test_ram_captions_good_pictures_without_dape(folder, tmp_path):
    from mini_models.taggers import SMALL, lora_tensors, official_tensors

    from osediff_core.dape import Tagger, TaggerWeights, prompt_of, write_tagger
    from osediff_core.dape.lora import lora_modules, pairs_of
    from osediff_core.images import read_image

    path, lora = tmp_path / "ram.safetensors", pairs_of(lora_tensors(), lora_modules(SMALL))
    write_tagger(path, TaggerWeights(SMALL, official_tensors(), lora))
    (batch,) = take(loader(folder, captions=f"tagger:{path}", workers=1), 1)
    ram, adapted = Tagger.load(path, dape=False), Tagger.load(path)
    assert batch.prompts == [prompt_of(tags) for tags in ram.tag(batch.hq)]
    assert batch.prompts != [prompt_of(tags) for tags in adapted.tag(batch.hq)]
    assert main(["--out", str(tmp_path / "c.jsonl"), "--tagger", str(path), str(folder)]) == 0
    (name, text), *_ = read_captions(tmp_path / "c.jsonl").items()
    assert text == prompt_of(ram.tag([read_image(name).planes()])[0])
    assert len(pickle.dumps(find_tagger(str(path)))) < 1000
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="not a tagger; give ram_swin_large_14m"):
        find_tagger(str(tmp_path / "other.pth"))


@pytest.mark.parametrize(("options", "dtype"), [
    ([], torch.float32), (["--base-dtype", "bf16", "--precision", "bf16"], torch.bfloat16)
])  # fmt: skip
def test_embeddings_are_those_the_trainer_looks_for(options, dtype, folder, tmp_path, caplog):
    caplog.set_level("INFO", "training")
    out, cache = tmp_path / "captions.jsonl", tmp_path / "cache"
    arguments = ["--out", str(out), "--tagger", "appearance", str(folder)]
    assert main([*arguments, "--embeddings", str(cache), "--base", "tiny", *options]) == 0

    def unused(prompts):
        raise AssertionError(f"{prompts} were not in the cache")

    from osediff_core.backends.load_base import load_base

    prompts = ["", *read_captions(out).values()]
    count = len(set(prompts))
    text = load_base("tiny", dtype, torch.device("cpu")).text
    kept = None if dtype == torch.float32 else dtype
    found = PromptCache(unused, cache, dtype=kept, identity=identity_of(text))(prompts)
    assert found.dtype == dtype and torch.allclose(found[:2], text(prompts[:2]), atol=1e-5)
    assert len(list(cache.glob("*/*.safetensors"))) == count
    assert f"{count} new prompts of" in caplog.text and "GB in" in caplog.text
    assert stems(take(loader(folder), 1))


def test_taggers_by_name():
    assert find_tagger("appearance")(torch.zeros(2, 3, 8, 8)) == ["black and white, blurry"] * 2
    assert find_tagger("builtins:len") is len
    for name in ("dape", "no.such.module:tag"):
        with pytest.raises(DataError):
            find_tagger(name)
